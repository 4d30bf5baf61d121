-- Scores of `unacked` and `delayed`: (step - 1) * 2^42 + milliseconds. A band a priority step keeps the order across
-- priorities exact at any size: the oldest of one step is one range query. 2^42 ms last until the year 2109.
--
-- Half a millisecond more marks a lease whose holder has nothing else: if it ends unsettled, that is evidence
-- against its message. Ten bands on, in `unacked`, are those that wait to go alone, with the same mark.
local limits = require("lib.limits")
local M = { SIZE = limits.BAND, APART = 10 }

function M.at(step, ms)
  return (step - 1) * M.SIZE + ms
end

-- The same as text, which costs much: for scores that are written often.
function M.score(step, ms)
  return string.format("%.0f", M.at(step, ms))
end

-- The same band and mark, another time; or without the mark.
function M.moved(score, ms, beside)
  local at = score % M.SIZE
  return string.format("%.0f", score - at + ms) .. (at % 1 > 0 and not beside and ".5" or "")
end

-- Of a score as the server answers it: a text, which ends in ".5" then.
function M.alone(score)
  return string.byte(score, -2) == 46
end

-- True if any entry has priority step 2 or more. Most queues have none, and need not be read step by step.
function M.past_first_step(key)
  return redis.call("ZCOUNT", key, M.SIZE, "+inf") > 0
end

-- How many wait to go alone?
function M.apart(key)
  return redis.call("ZCOUNT", key, M.APART * M.SIZE, "+inf")
end

-- How many of the first step are due at `now`?
function M.due(key, now)
  return redis.call("ZCOUNT", key, "-inf", now + 0.5)
end

return M
