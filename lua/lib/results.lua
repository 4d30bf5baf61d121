-- Results: a string with a time to live, and the same text published on the channel of the same name.
local M = {}

function M.tell(key, value, ttl)
  if value ~= "" then
    redis.call("SET", key, value, "PX", ttl)
    redis.call("PUBLISH", key, value)
  end
end

return M
