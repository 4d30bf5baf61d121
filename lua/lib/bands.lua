-- Scores of `unacked` and `delayed`: (step - 1) * 2^42 + milliseconds. A band a priority step keeps the order across
-- priorities exact at any size: the oldest of one step is one range query. 2^42 ms last until the year 2109.
local M = { SIZE = 4398046511104 }

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

-- Is anything due at `now`, or may it be, in a step behind the first?
function M.stirs(key, now, steps)
  return redis.call("ZCOUNT", key, "-inf", now) > 0 or steps > 1 and M.behind_first(key)
end

return M
