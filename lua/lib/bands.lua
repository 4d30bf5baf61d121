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

-- What is due in this step at `now`, oldest first. The last step also looks into the bands behind it, where a
-- fleet with more priority steps may have put something.
function M.due(key, step, now, limit, foreign)
  local low = M.low(step)
  local found = redis.call("ZRANGEBYSCORE", key, low, low + now, "LIMIT", 0, limit)
  if foreign and #found < limit then
    local rest = redis.call("ZRANGEBYSCORE", key, low + M.SIZE, "+inf", "WITHSCORES", "LIMIT", 0, limit - #found)
    for i = 1, #rest, 2 do
      if rest[i + 1] % M.SIZE <= now then
        found[#found + 1] = rest[i]
      end
    end
  end
  return found
end

-- The earliest time of all bands, or nil. `steps` bands are looked at one by one, those behind them by their first.
function M.earliest(key, steps)
  local earliest
  for step = 1, steps + 1 do
    local low = M.low(step)
    local high = step > steps and "+inf" or low + M.SIZE - 1
    local head = redis.call("ZRANGEBYSCORE", key, low, high, "WITHSCORES", "LIMIT", 0, 1)
    local ms = head[2] and head[2] % M.SIZE
    if ms and (not earliest or ms < earliest) then
      earliest = ms
    end
  end
  return earliest
end

return M
