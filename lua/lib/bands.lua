-- Scores of `unacked` and `delayed`: (step - 1) * 2^42 + milliseconds. A band a priority step keeps the order across
-- priorities exact at any size: the oldest of one step is one range query. 2^42 ms last until the year 2109.
local M = { SIZE = 4398046511104 }

function M.low(step) return (step - 1) * M.SIZE end

function M.score(step, ms)
  return string.format("%.0f", (step - 1) * M.SIZE + ms)
end

-- The same step, another time.
function M.moved(score, ms)
  return string.format("%.0f", score - score % M.SIZE + ms)
end

-- Is there anything in a step behind the first? Most queues have none, and need not be asked step by step.
function M.behind_first(key)
  return redis.call("ZCOUNT", key, M.SIZE, "+inf") > 0
end

-- What is due at `now` in the steps `from` to `to`, step by step, oldest first.
function M.due(key, from, to, now, limit)
  local low = M.low(from)
  local found = redis.call("ZRANGEBYSCORE", key, low, low + now, "LIMIT", 0, limit)
  for step = from + 1, to do
    if #found < limit then
      low = M.low(step)
      for _, name in ipairs(redis.call("ZRANGEBYSCORE", key, low, low + now, "LIMIT", 0, limit - #found)) do
        found[#found + 1] = name
      end
    end
  end
  return found
end

-- The earliest time of the steps 1 to `steps`, or nil.
function M.earliest(key, steps)
  local earliest
  for step = 1, steps do
    local low = M.low(step)
    local head = redis.call("ZRANGEBYSCORE", key, low, low + M.SIZE - 1, "WITHSCORES", "LIMIT", 0, 1)
    local ms = head[2] and head[2] % M.SIZE
    if ms and (not earliest or ms < earliest) then
      earliest = ms
    end
  end
  return earliest
end

return M
