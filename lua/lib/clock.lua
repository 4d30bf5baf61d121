-- The one clock: the server's, in whole milliseconds since 1970; and `us`, the microseconds when it was last asked.
local limits = require("lib.limits")
local M = {}

function M.now()
  local t = redis.call("TIME")
  M.us = t[1] * limits.SECOND_US + t[2]
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

return M
