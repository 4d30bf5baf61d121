-- One queue as a claim finds it and leaves it: read before anything is written, and written down once messages are
-- handed out.
local bands = require("lib.bands")
local delivering = require("lib.delivering")
local limits = require("lib.limits")
local outage = require("lib.outage")
local quiet = require("lib.quiet")

local M = {}
local FIXED, SMALL = 11, limits.SMALL

-- Read one queue; `known` is what `claim` has read of it. `has_due` is set where a lease may have ended or a message
-- may be due; mostly nothing is. How many are due in its first step, `ended_first` and `due_first`, is kept up to date.
function M.read(q, call, known)
  local steps, now = call.steps, call.now
  local at, changes = (q - 1) * (FIXED + steps), {}
  local first = known.size or redis.call("LLEN", KEYS[at + FIXED + 1])
  local sizes, left = { first }, first
  local unacked, delayed = KEYS[at + 1], KEYS[at + 3]
  -- How many of its other keys are there and not read yet: mostly few. A user that may not ask this reads all.
  local there = known.there or tonumber(
    redis.pcall("EXISTS", unacked, delayed, KEYS[at + 6], unpack(KEYS, at + FIXED + 2, at + FIXED + steps))
  ) or 2 + steps
  local in_unacked = there > 0 and redis.call("ZCARD", unacked) or 0
  there = in_unacked > 0 and there - 1 or there
  local tokens = there > 0 and redis.call("LLEN", KEYS[at + 6]) or 0
  there = tokens > 0 and there - 1 or there
  local in_delayed = there > 0 and redis.call("ZCARD", delayed) or 0
  there = in_delayed > 0 and there - 1 or there
  for step = 2, steps do
    local size = there > 0 and redis.call("LLEN", KEYS[at + FIXED + step]) or 0
    there = size > 0 and there - 1 or there
    sizes[step], left = size, left + size
  end
  local set = redis.call(
    "HMGET", KEYS[at + 7], "paused", "seen", "grace", "renew", "largest", "steps", "renewals", "had_grace", "quiet",
    "cancels")
  local ended, longest, is_back = outage.look(set[2], set[3], set[4], set[7], set[8], call.renew, now, changes)
  local known_largest, known_steps = tonumber(set[5]) or 0, tonumber(set[6]) or 0
  if known_steps < steps then
    changes[#changes + 1], changes[#changes + 2], known_steps = "steps", steps, steps
  end
  redis.call("XLEN", KEYS[at + 5])
  local this = {
    at = at, index = q, sizes = sizes, left = left, in_unacked = in_unacked, in_delayed = in_delayed, ended = ended,
    tokens = tokens, paused = set[1] == "1", steps = known_steps,
    largest = math.max(SMALL, known_largest), known_largest = known_largest, changes = changes, delivered = 0,
    acked = 0, cancels = (tonumber(set[10]) or 0) > now, ended_first = 0, due_first = 0, has_due = false,
  }
  redis.call("HLEN", KEYS[at + 8])
  if in_delayed > 0 then
    redis.call("HLEN", KEYS[at + 4])
  end
  if is_back then
    local set_back = require("lib.set_back")
    this.ahead = set_back.heal(unacked, known_steps, now + math.max(call.lease, 3 * longest), now, changes)
  end
  local is_deep = false
  if in_unacked > 0 then
    this.ended_first = bands.due(unacked, ended)
    is_deep = this.ended_first == 0 and bands.past_first_step(unacked)
    this.has_due = this.ended_first > 0 or is_deep
  end
  local last_held = is_deep and math.max(2, known_steps) or 1
  quiet.keep(unacked, this.ended_first > 0 or is_back or this.cancels, last_held, set[9], call.lease, now, changes)
  if in_delayed > 0 then
    this.due_first = known.due or bands.due(delayed, now)
    this.has_due = this.has_due or this.due_first > 0 or known_steps > 1 and bands.past_first_step(delayed)
  end
  return this
end

-- Everything that grows is written by this: a claim that took nothing frees first, so that full memory allows it.
local function grow(this, call, command, key, ...)
  if not call.freed then
    redis.call("DEL", KEYS[this.at + 6])
    this.tokens, call.freed = 0, true
  end
  redis.call(command, KEYS[this.at + key], ...)
end

local function count(this, call, name, n)
  if n and n > 0 then
    grow(this, call, "HINCRBY", 8, name, n)
  end
end

-- Write down what became of a queue; leave a token where a consumer should claim again. Answers whether it has more.
function M.write(this, call)
  local at, changes, wake = this.at, this.changes, false
  if not this.paused then
    wake = this.left > 0 or this.parked ~= nil
      or (this.ended_first or 0) + (this.due_first or 0) > 0 and delivering.room(call) <= 0
    if not wake and (this.has_due or this.in_delayed > 0) then
      local remaining = require("lib.remaining")
      wake = remaining.more(this, call)
    end
  end
  if this.ended_ids then
    local tracking = require("lib.tracking")
    this.tracked = tracking.done(this.tracked, this.ended_ids, call.us)
  end
  if this.tracked then
    local tracking = require("lib.tracking")
    tracking.write(at + 9, this.tracked, call.us)
  end
  if this.first_death then
    local aside = require("lib.aside")
    aside.report(this, call)
  end
  count(this, call, "delivered", this.delivered)
  count(this, call, "acked", this.acked)
  count(this, call, "expired", this.redelivered)
  count(this, call, "dead", this.deaths)
  count(this, call, "cancelled", this.dropped)
  if this.deaths then
    local aside = require("lib.aside")
    aside.count(this, call)
  end
  if this.largest > this.known_largest then
    delivering.change(this, "largest", this.largest)
  end
  if #changes > 0 then
    grow(this, call, "HSET", 7, unpack(changes))
  end
  if this.ahead and #this.ahead > 0 then
    grow(this, call, "ZADD", 1, "XX", unpack(this.ahead))
  end
  if wake and this.tokens == 0 then
    grow(this, call, "RPUSH", 6, "1")
  elseif not wake and this.tokens > 0 then
    redis.call("DEL", KEYS[at + 6])
  end
  return wake == true
end

return M
