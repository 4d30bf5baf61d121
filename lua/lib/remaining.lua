-- What a claim leaves to other consumers: messages to claim now, or the time at which the next one falls due.
local delivering = require("lib.delivering")
local due = require("lib.due")

local M = {}

-- Is there any due in this index? Where `take` has looked at its only step, `of_first` says how many are left.
local function is_due(this, index, deepest, of_first, size, now)
  if deepest == 1 and of_first then
    return of_first > 0
  end
  return due.is_any(this, index, deepest, size, now)
end

-- Is there more that a claim would get now? The ready lists are empty.
local function remains(this, call)
  if (call.count > 0 or call.limit == 0) and (this.apart or 0) > 0 then
    return true -- for a consumer that holds nothing
  elseif delivering.room(call) > 0 then
    return false -- every step was looked at and ran dry
  end
  -- Where nothing was due before, nothing is: `has_due` of the queue as it was read.
  local at = this.at
  return this.has_due and (is_due(this, KEYS[at + 3], this.deepest_delayed, this.due_first, this.in_delayed, call.now)
    or is_due(this, KEYS[at + 1], this.deepest_unacked, this.ended_first, this.in_unacked, this.ended)) or false
end

-- One waiting consumer keeps the time at which the next delayed message falls due; a token wakes the others then.
-- Answers "timer" if another consumer has to keep it.
local function timer(this, call)
  if this.in_delayed == 0 then
    return false
  end
  local set = redis.call("HMGET", KEYS[this.at + 7], "timer_at", "timer_by")
  local timer_at, is_mine = tonumber(set[1]), set[2] == call.consumer
  local deepest = this.deepest_delayed or due.deepest(this, KEYS[this.at + 3], this.in_delayed)
  local next_due = due.earliest(KEYS[this.at + 3], deepest)
  if not next_due or timer_at and timer_at > call.now and timer_at <= next_due and not is_mine then
    return false
  elseif call.count > 0 or call.limit == 0 then -- this one goes to work: a waiting consumer shall keep the time
    delivering.change(this, "timer_at", 0)
    return "timer"
  end
  delivering.change(this, "timer_at", next_due)
  delivering.change(this, "timer_by", call.consumer)
  if not call.next_due or next_due < call.next_due then
    call.next_due = next_due
  end
  return false
end

-- Whether to leave a token: true if there is more now, "timer" if another consumer only has to keep the time.
function M.more(this, call)
  return remains(this, call) or timer(this, call)
end

return M
