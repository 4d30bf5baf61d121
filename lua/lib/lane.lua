-- One queue as a claim sees it: sizes and settings read before anything is written, what it hands out collected in
-- memory, and written in a handful of commands at the end.
local bands = require("lib.bands")
local dead = require("lib.dead")
local guard = require("lib.guard")
local message = require("lib.message")
local outage = require("lib.outage")
local record = require("lib.record")

local M = { FIXED = 8 }
local MOST_DEATHS = 100 -- a claim that sent so many to dead letters stops, though it has room for more
local SMALL = 8192 -- bytes; below this the size of a message does not limit how many are popped at once

-- The queue whose keys begin behind KEYS[at].
function M.open(at, call)
  local lane = {
    unacked = KEYS[at + 1], records = KEYS[at + 2], delayed = KEYS[at + 3], delayed_records = KEYS[at + 4],
    dead = KEYS[at + 5], wake = KEYS[at + 6], meta = KEYS[at + 7], stats = KEYS[at + 8],
    ready = {}, left = 0, index = at / (M.FIXED + call.steps) + 1,
    changes = {}, gone = {}, scores = {}, held = {}, delivered = 0, redelivered = 0, deaths = 0, cut = false,
  }
  lane.in_unacked, lane.in_delayed = guard.zset(lane.unacked), guard.zset(lane.delayed)
  guard.hash(lane.records); guard.hash(lane.delayed_records)
  guard.stream(lane.dead); guard.list(lane.wake); guard.hash(lane.stats)
  for step = 1, call.steps do
    local key = KEYS[at + M.FIXED + step]
    local size = guard.list(key)
    lane.ready[step] = { key = key, size = size }
    lane.left = lane.left + size
  end
  local meta = redis.pcall("HMGET", lane.meta, "paused", "seen", "grace", "renew", "largest", "steps",
    "timer_at", "timer_by")
  if meta.err then
    guard.hash(lane.meta)
    return lane
  end
  lane.paused = meta[1] == "1"
  lane.grace = outage.grace(meta[2], meta[3], meta[4], call.renew, call.now, lane.changes)
  lane.largest = math.max(SMALL, tonumber(meta[5]) or 0)
  lane.known_largest = lane.largest
  local known_steps = tonumber(meta[6]) or 0
  lane.steps = math.max(known_steps, call.steps)
  if known_steps < call.steps then
    M.change(lane, "steps", call.steps)
  end
  lane.timer_at, lane.timer_by = tonumber(meta[7]), meta[8]
  return lane
end

function M.change(lane, field, value)
  lane.changes[#lane.changes + 1], lane.changes[#lane.changes + 2] = field, value
end

local function bury(lane, call, reason, deliveries, step, body)
  dead.add(lane.dead, reason, "", deliveries, step, body)
  lane.deaths, call.deaths, call.bytes = lane.deaths + 1, call.deaths + 1, call.bytes + #body
end

-- Lease one message to the caller, or send it to dead letters when it may not be delivered (again).
local function hand(lane, call, deliveries, step, body)
  local expires = 0
  if string.byte(body, 3) == 120 then -- "x-...
    local _
    _, expires = message.head(body)
  end
  if call.max_deliveries > 0 and deliveries > call.max_deliveries then
    return bury(lane, call, "max_deliveries", deliveries - 1, step, body)
  elseif expires > 0 and expires <= call.now then
    return bury(lane, call, "expired", deliveries - 1, step, body)
  end
  call.count = call.count + 1
  local receipt = call.receipts[call.count]
  local known = deliveries * 16 + step
  local header = call.headers[known]
  if not header then
    header = record.header(deliveries, step, call.now)
    call.headers[known] = header
    call.deadlines[step] = call.deadlines[step] or bands.score(step, call.now + call.lease)
  end
  lane.held[#lane.held + 1], lane.held[#lane.held + 2] = receipt, header .. body
  lane.scores[#lane.scores + 1], lane.scores[#lane.scores + 2] = call.deadlines[step], receipt
  lane.delivered = lane.delivered + 1
  M.answer(lane, call, receipt, deliveries, step, body)
  call.bytes = call.bytes + #body
  if #body > lane.largest then
    lane.largest = #body
  end
end

function M.answer(lane, call, receipt, deliveries, step, body)
  local out, n = call.out, #call.out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = lane.index, receipt, deliveries, step, body
end

-- Leases of this claim that are already there: answered again, unchanged.
function M.replay(lane, call, names)
  local held, found = redis.call("HMGET", lane.records, unpack(names)), false
  for i = 1, #names do
    if held[i] then
      local deliveries, step, _, body = record.split(held[i])
      M.answer(lane, call, names[i], deliveries, step, body)
      found = true
    end
  end
  return found
end

local function room(call)
  if call.bytes >= call.max_bytes and call.count + call.deaths > 0 or call.deaths >= MOST_DEATHS then
    return 0
  end
  return call.limit - call.count
end

-- A claim's last step also takes what a fleet with more priority steps has left behind it.
local function last(lane, call, step)
  return step == call.steps and lane.steps or step
end

-- What is due in `unacked` or `delayed` of this step, handed out directly: parked in ready it would lose its order.
-- Answers how many entries are gone from there.
local function recover(lane, call, step, index, records)
  local free = room(call)
  if free == 0 then
    return 0
  end
  local found = bands.due(index, step, last(lane, call, step), call.now, free)
  for i = 1, #found do
    if room(call) == 0 then
      return i - 1
    end
    local held = redis.call("HGET", records, found[i])
    redis.call("ZREM", index, found[i])
    redis.call("HDEL", records, found[i])
    if held then
      local deliveries, _, _, body = record.split(held)
      if deliveries then
        hand(lane, call, deliveries + 1, step, body)
      else
        bury(lane, call, "corrupt", 0, step, held)
      end
    end
  end
  if #found == free and room(call) > 0 then
    lane.cut = true -- some were dead letters, and there may be more behind them
  end
  return #found
end

local function pop(lane, call, step)
  local ready = lane.ready[step]
  while ready.size > 0 do
    local free = room(call)
    if free == 0 then
      return
    end
    -- The first alone, then as many as surely fit: sizes are unknown until they are popped.
    local many = call.count == 0 and 1
      or math.max(1, math.min(free, math.floor((call.max_bytes - call.bytes) / lane.largest)))
    local bodies = redis.call("RPOP", ready.key, many)
    if not bodies then
      ready.size = 0
      return
    end
    ready.size, lane.left = ready.size - #bodies, lane.left - #bodies
    for i = 1, #bodies do
      local body = bodies[i]
      if message.sound(body) then
        hand(lane, call, string.byte(body, 3) == 120 and message.head(body) + 1 or 1, step, body)
      else
        bury(lane, call, "undecodable", 0, step, body)
      end
    end
  end
end

-- Everything claimable of one step: expired first, then due, then ready.
function M.take(lane, call, step)
  if lane.paused then
    return
  end
  if lane.in_unacked > 0 and call.now >= lane.grace then
    local n = recover(lane, call, step, lane.unacked, lane.records)
    lane.in_unacked, lane.redelivered = lane.in_unacked - n, lane.redelivered + n
  end
  if lane.in_delayed > 0 then
    lane.in_delayed = lane.in_delayed - recover(lane, call, step, lane.delayed, lane.delayed_records)
  end
  pop(lane, call, step)
end

-- Is there more that a claim would get now?
local function more(lane, call)
  if lane.paused then
    return false
  elseif lane.left > 0 or lane.cut then
    return true
  elseif room(call) > 0 then
    return false -- every step was looked at and ran dry
  end
  for step = 1, call.steps do
    local to = last(lane, call, step)
    if lane.in_delayed > 0 and #bands.due(lane.delayed, step, to, call.now, 1) > 0
      or lane.in_unacked > 0 and call.now >= lane.grace
      and #bands.due(lane.unacked, step, to, call.now, 1) > 0 then
      return true
    end
  end
  return false
end

-- When the next delayed message falls due, told to one waiting consumer only; others hear of it by token.
local function timer(lane, call)
  local mine = lane.timer_by == call.consumer
  local next_due = lane.in_delayed > 0 and bands.earliest(lane.delayed, lane.steps) or nil
  if not next_due then
    if mine then
      M.change(lane, "timer_at", 0)
    end
    return
  end
  local kept = lane.timer_at and lane.timer_at > call.now and lane.timer_at <= next_due and not mine
  if kept then
    return
  elseif call.count > 0 or call.limit == 0 then -- it goes to work: somebody who waits shall keep the time
    M.change(lane, "timer_at", 0)
    return "wake"
  end
  M.change(lane, "timer_at", string.format("%.0f", next_due))
  M.change(lane, "timer_by", call.consumer)
  if not call.next_due or next_due < call.next_due then
    call.next_due = next_due
  end
end

function M.close(lane, call)
  if #lane.held > 0 then
    redis.call("HSET", lane.records, unpack(lane.held))
    redis.call("ZADD", lane.unacked, unpack(lane.scores))
  end
  if lane.delivered > 0 then
    redis.call("HINCRBY", lane.stats, "delivered", lane.delivered)
  end
  if lane.redelivered > 0 then
    redis.call("HINCRBY", lane.stats, "expired", lane.redelivered)
  end
  if lane.deaths > 0 then
    redis.call("HINCRBY", lane.stats, "dead", lane.deaths)
  end
  if lane.largest > lane.known_largest then
    M.change(lane, "largest", lane.largest)
  end
  local wake = more(lane, call)
  if wake then
    call.more[#call.more + 1] = lane.index
  elseif not lane.paused then
    wake = timer(lane, call)
  end
  if wake then
    redis.call("RPUSH", lane.wake, "1")
  end
  if #lane.changes > 0 then
    redis.call("HSET", lane.meta, unpack(lane.changes))
  end
end

return M
