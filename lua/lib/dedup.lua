-- Ids seen. Those of calls lie in two generations of sets, for they need no exact time: the younger becomes the older
-- once its window is over, and the older is dropped whole. Three times cheaper, and smaller, than a key an id. Those of
-- messages lie in a zset by the moment at which each is forgotten. (The first release has both in the sets.)
local M = {}
local CALLS = 120000 -- ms
local TRIM = 100 -- ids forgotten beyond twice those that come, so that they grow fewer

-- For how long ids of calls are remembered at present. What was written there last stays as long as it was promised.
function M.present(window)
  return math.max(CALLS, tonumber(window) or 0)
end

local function expire(calls, calls_old, window)
  redis.call("PEXPIRE", calls, 2 * window)
  redis.call("PEXPIRE", calls_old, 2 * window)
end

-- A write to wherever an id is, so that a WAIT behind a repeated call waits for the first.
function M.touch(calls, calls_old, meta)
  expire(calls, calls_old, M.present(redis.call("HGET", meta, "calls_window")))
end

-- `names` were added to the younger generation: a growing write, for what is done here frees. It becomes the older one
-- when its time has come, by the text of seconds in `calls_turn`; and stays for longer when it is told so.
function M.keep(calls, calls_old, meta, names, window, seconds, turn)
  local known = M.present(redis.call("HGET", meta, "calls_window"))
  local is_over = turn and seconds > turn
  window = M.present(window)
  if turn and not is_over and window <= known then
    return
  end
  if is_over then
    redis.call("UNLINK", calls_old)
    redis.call("RENAME", calls, calls_old)
    redis.call("SADD", calls, unpack(names))
  end
  local longest = math.max(window, known) -- the older ones were promised what was known
  turn = string.format("%.0f", seconds + math.ceil(longest / 1000))
  redis.call("HSET", meta, "calls_window", window, "calls_turn", turn)
  expire(calls, calls_old, longest)
end

-- Some of those whose time is over are forgotten, and the key passes by itself once all are. `ends` is when it does.
function M.forget(ids, meta, many, now, window, ends)
  local over = redis.call("ZRANGEBYSCORE", ids, "-inf", now, "LIMIT", 0, 2 * many + TRIM)
  if #over > 0 then
    redis.call("ZREM", ids, unpack(over))
  end
  if now + window > (tonumber(ends) or 0) then
    redis.call("PEXPIRE", ids, 2 * window)
    redis.call("HSET", meta, "ids_end", string.format("%.0f", now + 2 * window))
  end
end

return M
