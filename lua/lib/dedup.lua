-- Ids seen within a window, in two generations of sets: the younger becomes the older once it is a window old, and
-- the older is dropped whole. Three times cheaper, and smaller, than a key an id. The window is that of calls, who want
-- to be known when they are sent again, or the longest that a message with an id of its own ever asked for.
local M = {}
local CALLS = 120000 -- ms

local function expire(calls, calls_old, window)
  redis.call("PEXPIRE", calls, 2 * window)
  redis.call("PEXPIRE", calls_old, 2 * window)
end

local function longest(meta)
  return math.max(CALLS, tonumber(redis.call("HGET", meta, "calls_window")) or 0)
end

-- A write to wherever an id is, so that a WAIT behind a repeated call waits for the first.
function M.touch(calls, calls_old, meta)
  expire(calls, calls_old, longest(meta))
end

-- `names` were added to the younger generation: a growing write, for what is done here frees. It becomes the older one
-- when its time has come, by the text of seconds in `calls_turn`; and stays for longer when it is told so.
function M.keep(calls, calls_old, meta, names, window, seconds)
  local turn, known = redis.call("HGET", meta, "calls_turn"), longest(meta)
  local is_over = turn and seconds > turn
  window = math.max(window or 0, known)
  if turn and not is_over and window == known then
    return
  end
  if is_over then
    redis.call("UNLINK", calls_old)
    redis.call("RENAME", calls, calls_old)
    redis.call("SADD", calls, unpack(names))
  end
  turn = string.format("%.0f", seconds + math.ceil(window / 1000))
  redis.call("HSET", meta, "calls_window", window, "calls_turn", turn)
  expire(calls, calls_old, window)
end

return M
