-- What is due in `unacked` or `delayed`, step by step: each is one band of scores.
local bands = require("lib.bands")

local M = {}

-- How many are due at `now` in one step.
function M.count(key, step, now)
  local low = (step - 1) * bands.SIZE
  return redis.call("ZCOUNT", key, low, low + now + 0.5)
end

-- Is anything due in this index of `size` entries? `deepest`: as below, if that is known.
function M.is_any(this, key, deepest, size, now)
  for step = 1, size > 0 and (deepest or M.deepest(this, key, size)) or 0 do
    if M.count(key, step, now) > 0 then
      return true
    end
  end
  return false
end

-- What is due at `now` in the steps `from` to `to`, step by step, oldest first. Into `alone`, if it is given: true for
-- each whose score has the mark.
function M.now(key, from, to, now, limit, alone)
  local found, n, byte = {}, 0, string.byte
  for step = from, to do
    local low = (step - 1) * bands.SIZE
    if n < limit and alone then
      local some = redis.call("ZRANGEBYSCORE", key, low, low + now + 0.5, "WITHSCORES", "LIMIT", 0, limit - n)
      for i = 1, #some, 2 do
        n = n + 1
        found[n], alone[n] = some[i], byte(some[i + 1], -2) == 46 -- as bands.alone
      end
    elseif n < limit then
      local some = redis.call("ZRANGEBYSCORE", key, low, low + now + 0.5, "LIMIT", 0, limit - n)
      for i = 1, #some do
        n = n + 1
        found[n] = some[i]
      end
    end
  end
  return found
end

-- The earliest time of the steps 1 to `steps`, or nil.
function M.earliest(key, steps)
  local earliest
  for step = 1, steps do
    local low = (step - 1) * bands.SIZE
    local head = redis.call("ZRANGEBYSCORE", key, low, low + bands.SIZE - 1, "WITHSCORES", "LIMIT", 0, 1)
    local ms = head[2] and math.floor(head[2] % bands.SIZE)
    if ms and (not earliest or ms < earliest) then
      earliest = ms
    end
  end
  return earliest
end

-- The last step that a claim looks into at `step`: its last one also takes what a fleet with more steps has left.
function M.last(this, call, step)
  return step == call.steps and this.steps or step
end

-- The last step that has anything in this index of `size` entries, of which so many are known to be of the first step.
function M.deepest(this, index, size, of_first)
  return size == 0 and 0 or this.steps > 1 and size ~= of_first and bands.past_first_step(index) and this.steps or 1
end

return M
