-- What a claim finds due in `unacked` (leases past their deadline) and in `delayed`. It is handed out directly, for in
-- ready it would lose its order.
local bands = require("lib.bands")
local due = require("lib.due")
local delivering = require("lib.delivering")
local message = require("lib.message")
local record = require("lib.record")

local M = {}
local MOST = 200 -- a claim that took so many expired or due ones stops: a thousand would take 10 ms

-- How often the message that begins at `at` of a record was spared before it is delivered anew, and when it expires.
-- Most have no head.
local function spared_before(held, at, deliveries, more)
  if string.byte(held, at + 2) ~= 120 then -- "x-...
    return math.min(more, deliveries), 0
  end
  local _, expires, _, spared = message.head(string.sub(held, at))
  return math.min(spared + more, deliveries), expires
end

-- What is in these records, as far as it fits: how many; deliveries, false for what is no record; how often they were
-- spared; when they expire; the messages. A message that goes alone is taken by itself, if this claim has nothing yet,
-- and the others stay where they are.
local function read(call, held, ended_alone, at)
  local deliveries, spared, expires, bodies, bytes, sub = {}, {}, {}, {}, call.bytes, string.sub
  local has_nothing, header, times, size, _ = call.company + call.count == 0, nil, nil, nil, nil
  for i = 1, #held do
    local this, n, ends = held[i] or "", 0, 0
    local body = this
    if bytes >= call.max_bytes then -- they are larger than any before
      return i - 1, deliveries, spared, expires, bodies
    end
    if not header or sub(this, 1, size) ~= header then -- most are that of the one before
      times, size = record.header_of(this)
      header = times and sub(this, 1, size)
    end
    if times then
      n, ends = spared_before(this, size + 1, times, ended_alone and not ended_alone[at + i] and 1 or 0)
      if n > 1 and has_nothing and i > 1 then
        return i - 1, deliveries, spared, expires, bodies
      end
      body = message.spare(this, n, size + 1)
    end
    deliveries[i], spared[i], expires[i], bodies[i], bytes = times or false, n, ends, body, bytes + #body
    if n > 1 and has_nothing then
      return 1, deliveries, spared, expires, bodies
    end
  end
  return #held, deliveries, spared, expires, bodies
end

-- Hand these entries out, dead-letter them or set them apart, as long as there is room. Answers how many have left the
-- index. `ended_alone`: the entries are leases that have ended; it holds which of them were alone.
local function take_out(this, call, step, index, records, found, ended_alone)
  local at = 0
  while at < #found do
    local room = math.min(delivering.fitting(this, call), #found - at)
    if room == 0 then
      break
    end
    local held = redis.call("HMGET", records, unpack(found, at + 1, at + room))
    local many, deliveries, spared, expires, bodies = read(call, held, ended_alone, at)
    redis.call("ZREM", index, unpack(found, at + 1, at + many))
    redis.call("HDEL", records, unpack(found, at + 1, at + many))
    call.freed = true
    local i = 1
    while i <= many do
      local before, n, ends, to = deliveries[i], spared[i], expires[i], i
      local is_lease = records == KEYS[this.at + 2]
      this.largest = math.max(this.largest, #bodies[i])
      if this.cancels and is_lease and delivering.drop(this, call, bodies[i], "!" .. found[at + i]) then
        call.bytes = call.bytes + #bodies[i]
      elseif not before then
        if held[i] then
          local id = records == KEYS[this.at + 4] and found[at + i]
          delivering.dead_letter(this, call, "corrupt", 0, step, held[i], id)
        end
      elseif n > 1 then
        local apart = require("lib.apart")
        apart.send(this, call, before, n, ends, step, bodies[i], is_lease and found[at + i], many == 1)
      else
        local last = this.cancels and i or many -- each is looked for by itself then
        while to < last and deliveries[to + 1] == before and spared[to + 1] == n and expires[to + 1] == ends do
          to = to + 1
          this.largest = math.max(this.largest, #bodies[to])
        end
        delivering.hand(this, call, before + 1, n, ends, step, bodies, i, to)
      end
      i = to + 1
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
    this.deepest_unacked = due.deepest(this, KEYS[this.at + 1], this.in_unacked)
    this.deepest_delayed = due.deepest(this, KEYS[this.at + 3], this.in_delayed)
    local may_wait = this.deepest_unacked > 1 or this.deepest_unacked == this.steps
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
    n = n + recover(this, call, step, index, records, this.ended, true) + before - (this.parked or 0)
    this.in_unacked, this.redelivered = this.in_unacked - n, (this.redelivered or 0) + n
  end
  if step <= this.deepest_delayed then
    this.in_delayed = this.in_delayed - recover(this, call, step, KEYS[this.at + 3], KEYS[this.at + 4], call.now)
  end
end

return M
