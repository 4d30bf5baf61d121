-- What a claim finds due in `unacked` (leases past their deadline) and in `delayed`. It is handed out directly, for in
-- ready it would lose its order.
local bands = require("lib.bands")
local due = require("lib.due")
local delivering = require("lib.delivering")
local runs = require("lib.runs")

local M = {}
local MOST = 200 -- a claim that took so many expired or due ones stops: a thousand would take 10 ms

-- Hand these entries out, dead-letter them or set them apart, as long as there is room. Answers how many have left the
-- index. `ended_alone`: the entries are leases that have ended; it holds which of them were alone.
local function take_out(this, call, step, index, records, found, ended_alone)
  local at, is_lease = 0, records == KEYS[this.at + 2]
  while at < #found do
    local room = math.min(delivering.fitting(this, call), #found - at)
    if room == 0 then
      break
    end
    local held = redis.call("HMGET", records, unpack(found, at + 1, at + room))
    local many, bodies, alike = runs.read(this, call, held, ended_alone, at)
    redis.call("ZREM", index, unpack(found, at + 1, at + many))
    redis.call("HDEL", records, unpack(found, at + 1, at + many))
    call.freed = true
    for _, run in ipairs(alike) do
      local i = run.from
      local body, name = bodies[i], found[at + i]
      local is_dropped = false
      if this.cancels and is_lease then
        local aside = require("lib.aside")
        is_dropped = aside.was_revoked(this, call, body, name)
      end
      if is_dropped then
        call.bytes = call.bytes + #body
      elseif run.deliveries and run.spared > 1 then
        local apart = require("lib.apart")
        apart.send(this, call, run, step, body, is_lease and name, many == 1)
      elseif run.deliveries then
        delivering.hand(this, call, run, step, bodies, i, run.to)
      elseif held[i] then
        local aside = require("lib.aside")
        aside.dead_letter(this, call, "corrupt", 0, step, body, not is_lease and name)
      end
    end
    delivering.lease(this, call)
    at = at + many
  end
  return at
end

-- Take what is due in this step of an index, by `now`. Answers how many entries have left the index. Behind dead
-- letters it looks again: what is due behind them goes first.
local function recover(this, call, step, index, records, now, are_leases)
  local gone = 0
  while delivering.room(call) > 0 do
    local most = math.min(delivering.room(call), MOST - gone)
    if most == 0 then
      call.limit = call.count -- what comes behind them must wait for its turn
      break
    end
    local ended_alone = are_leases and {}
    local found = due.now(index, step, due.last(this, call, step), now, most, ended_alone)
    gone = gone + take_out(this, call, step, index, records, found, ended_alone)
    if #found < most then
      break
    end
  end
  return gone
end

-- Everything due of one step: expired leases first.
function M.take(this, call, step)
  if step == 1 then
    this.deepest_unacked = due.deepest(this, KEYS[this.at + 1], this.in_unacked, this.ended_first)
    this.deepest_delayed = due.deepest(this, KEYS[this.at + 3], this.in_delayed, this.due_first)
    local may_wait = this.in_unacked > this.ended_first
      and (this.deepest_unacked > 1 or this.deepest_unacked == this.steps)
    this.apart = may_wait and bands.apart(KEYS[this.at + 1]) or 0
    if this.apart > 0 then
      local apart = require("lib.apart")
      apart.elect(this, call)
    end
  end
  if step <= this.deepest_unacked then
    local index, records, n = KEYS[this.at + 1], KEYS[this.at + 2], 0
    while this.apart > n and call.company + call.count == 0 and delivering.room(call) > 0 do
      local apart = require("lib.apart")
      local found = apart.due(this, step, due.last(this, call, step), this.ended)
      if #found == 0 or take_out(this, call, step, index, records, found) == 0 then
        break
      end
      n = n + 1
    end
    local before = this.parked or 0
    this.apart = this.apart - n
    local gone = recover(this, call, step, index, records, this.ended, true)
    n = n + gone + before - (this.parked or 0)
    this.in_unacked, this.redelivered = this.in_unacked - n, (this.redelivered or 0) + n
    this.ended_first = this.deepest_unacked == 1 and this.ended_first - gone or nil
  end
  if step <= this.deepest_delayed then
    local gone = recover(this, call, step, KEYS[this.at + 3], KEYS[this.at + 4], call.now)
    this.in_delayed = this.in_delayed - gone
    this.due_first = this.deepest_delayed == 1 and this.due_first - gone or nil
  end
end

return M
