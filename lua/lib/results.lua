-- Results: a string with a time to live, and the same text published on the channel of the same name.
local M = {}

-- In a cluster a message on a plain channel travels to every node, on a sharded one to this node and its replicas.
-- What waits here listens on both. Where none hears the sharded one (older releases, users that may not, Redis 6.2)
-- the plain one tells all.
function M.tell(key, value, ttl, sharded)
  if value ~= "" then
    redis.call("SET", key, value, "PX", ttl)
    local hear = sharded == 1 and redis.pcall("SPUBLISH", key, value)
    if type(hear) ~= "number" or hear == 0 then
      redis.call("PUBLISH", key, value)
    end
  end
end

return M
