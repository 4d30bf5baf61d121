-- Ids seen within a window, in two generations of sets: the younger becomes the older once it is a window old, and
-- the older is dropped whole. Three times cheaper, and smaller, than a key an id.
local M = {}

-- The first generation begins, or the younger becomes the older. `names` were added to it already, as the growing
-- write that this stands behind: it frees.
function M.turn(calls, calls_old, meta, since, names, window, now)
  if since then
    redis.call("UNLINK", calls_old)
    redis.call("RENAME", calls, calls_old)
    redis.call("PEXPIRE", calls_old, 2 * window)
    redis.call("SADD", calls, unpack(names))
  end
  redis.call("PEXPIRE", calls, 2 * window)
  redis.call("HSET", meta, "calls_since", string.format("%.0f", now))
end

return M
