-- The one clock: the server's, in whole milliseconds since 1970.
local M = {}

function M.now()
  local t = redis.call("TIME")
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

return M
