-- Tokens: one element in `wake` wakes one waiting consumer, which claims or passes it on. Never more than one is
-- needed.
local M = {}

function M.one(wake, paused)
  if not paused and redis.call("LLEN", wake) == 0 then
    redis.call("RPUSH", wake, "1")
  end
end

return M
