-- Ids seen within a window, in two generations of sets: the younger becomes the older once it is a window old, and
-- the older is dropped whole. Three times cheaper, and smaller, than a key an id.
local M = {}

-- For each name: 1 if it was seen.
function M.known(calls, calls_old, names)
  local known = redis.call("SMISMEMBER", calls, unpack(names))
  local before = redis.call("SMISMEMBER", calls_old, unpack(names))
  for i = 1, #names do
    known[i] = known[i] + before[i]
  end
  return known
end

-- To be called after a growing write: it may free. `since`: when the younger generation began.
function M.remember(calls, calls_old, meta, since, names, window, now)
  local first = redis.call("SADD", calls, unpack(names)) == redis.call("SCARD", calls)
  since = tonumber(since)
  if since and now - since > window then
    redis.call("UNLINK", calls_old)
    redis.call("RENAME", calls, calls_old)
    redis.call("PEXPIRE", calls_old, 2 * window)
  elseif first then
    redis.call("PEXPIRE", calls, 2 * window)
  end
  if first or since and now - since > window then
    redis.call("HSET", meta, "calls_since", string.format("%.0f", now))
  end
end

return M
