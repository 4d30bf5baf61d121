-- Ids seen within a window, in two generations of sets: the younger becomes the older once it is a window old, and
-- the older is dropped whole. Three times cheaper, and smaller, than a key an id.
local guard = require("lib.guard")

local M = { young = 0, old = 0 } -- how many each generation holds

function M.open(calls, calls_old)
  M.young, M.old = guard.set(calls), guard.set(calls_old)
end

local function mark(known, generation, names)
  local found = redis.call("SMISMEMBER", generation, unpack(names))
  for i = 1, #names do
    known[i] = known[i] or found[i] == 1
  end
end

-- For each name: true if it was seen.
function M.known(calls, calls_old, names)
  local known = {}
  if M.young > 0 then
    mark(known, calls, names)
  end
  if M.old > 0 then
    mark(known, calls_old, names)
  end
  return known
end

-- To be called after a growing write: it may free. `since`: when the younger generation began.
function M.remember(calls, calls_old, meta, since, names, window, now)
  local first = M.young == 0
  redis.call("SADD", calls, unpack(names))
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
