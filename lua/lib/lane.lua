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
local MOST_RECOVERED = 200 -- as does one that took so many expired or due ones: a thousand would take 10 ms
local SMALL = 8192 -- bytes; below this the size of a message does not limit how many are popped at once

-- The queue whose keys begin behind KEYS[at].
function M.open(at, call)
  local unacked, delayed, meta, changes = KEYS[at + 1], KEYS[at + 3], KEYS[at + 7], {}
  guard.hash(KEYS[at + 2]); guard.hash(KEYS[at + 4])
  guard.stream(KEYS[at + 5]); guard.list(KEYS[at + 6]); guard.hash(KEYS[at + 8])
  local sizes, left = {}, 0
  for step = 1, call.steps do
    sizes[step] = guard.list(KEYS[at + M.FIXED + step])
    left = left + sizes[step]
  end
  local set = guard.fields(meta, "paused", "seen", "grace", "renew", "largest", "steps", "timer_at", "timer_by")
  local known_steps, largest = tonumber(set[6]) or 0, math.max(SMALL, tonumber(set[5]) or 0)
  if known_steps < call.steps then
    changes[1], changes[2] = "steps", call.steps
  end
  return {
    unacked = unacked, records = KEYS[at + 2], delayed = delayed, delayed_records = KEYS[at + 4],
    dead = KEYS[at + 5], wake = KEYS[at + 6], meta = meta, stats = KEYS[at + 8],
    first = at + M.FIXED, index = at / (M.FIXED + call.steps) + 1, steps = math.max(known_steps, call.steps),
    in_unacked = guard.zset(unacked), in_delayed = guard.zset(delayed), sizes = sizes, left = left,
    paused = set[1] == "1", largest = largest, known_largest = largest,
    grace = outage.grace(set[2], set[3], set[4], call.renew, call.now, changes),
    timer_at = tonumber(set[7]), timer_by = set[8],
    changes = changes, scores = {}, held = {}, delivered = 0, redelivered = 0, deaths = 0, cut = false,
  }
end

function M.change(lane, field, value)
  lane.changes[#lane.changes + 1], lane.changes[#lane.changes + 2] = field, value
end

local function bury(lane, call, reason, deliveries, step, body)
  dead.add(lane.dead, reason, "", deliveries, step, body)
  lane.deaths, call.deaths, call.bytes = lane.deaths + 1, call.deaths + 1, call.bytes + #body
end

-- Lease messages (bodies[from] to bodies[to], alike but for their bytes) to the caller, or send them to dead letters
-- when they may not be delivered (again). One loop over locals: this is where a claim spends its time.
local function hand(lane, call, deliveries, expires, step, bodies, from, to)
  local spent = call.max_deliveries > 0 and deliveries > call.max_deliveries
  if spent or expires > 0 and expires <= call.now then
    for i = from, to do
      bury(lane, call, spent and "max_deliveries" or "expired", deliveries - 1, step, bodies[i])
    end
    return
  end
  local known = deliveries * 16 + step
  if not call.headers[known] then
    call.headers[known] = record.header(deliveries, step, call.now)
    call.deadlines[step] = call.deadlines[step] or bands.score(step, call.now + call.lease)
  end
  local header, deadline, index = call.headers[known], call.deadlines[step], lane.index
  local receipts, count, bytes = call.receipts, call.count, call.bytes
  local out, held, scores, o, n = call.out, lane.held, lane.scores, 5 * count, 2 * lane.delivered
  for i = from, to do
    local body, receipt = bodies[i], receipts[count + 1]
    out[o + 1], out[o + 2], out[o + 3], out[o + 4], out[o + 5] = index, receipt, deliveries, step, body
    held[n + 1], held[n + 2] = receipt, header .. body
    scores[n + 1], scores[n + 2] = deadline, receipt
    count, o, n, bytes = count + 1, o + 5, n + 2, bytes + #body
  end
  call.count, call.bytes, lane.delivered = count, bytes, n / 2
end

-- Leases of this claim that are already there: answered again, unchanged.
function M.replay(lane, call, names)
  local held, found = redis.call("HMGET", lane.records, unpack(names)), false
  for i = 1, #names do
    if held[i] then
      local deliveries, step, _, body = record.split(held[i])
      local out, n = call.out, #call.out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = lane.index, names[i], deliveries, step, body
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

-- How many messages surely fit: the first alone, for sizes are unknown until one is read.
local function fitting(lane, call)
  local free = room(call)
  if free == 0 or call.count == 0 then
    return math.min(free, 1)
  end
  return math.max(1, math.min(free, math.floor((call.max_bytes - call.bytes) / lane.largest)))
end

-- A claim's last step also takes what a fleet with more priority steps has left behind it.
local function last(lane, call, step)
  return step == call.steps and lane.steps or step
end

-- Hand out these entries, or bury them, as long as there is room; answers how many are gone from the index.
local function take_out(lane, call, step, index, records, found)
  local at = 0
  while at < #found do
    local many = math.min(fitting(lane, call), #found - at)
    if many == 0 then
      return at
    end
    local held = redis.call("HMGET", records, unpack(found, at + 1, at + many))
    redis.call("ZREM", index, unpack(found, at + 1, at + many))
    redis.call("HDEL", records, unpack(found, at + 1, at + many))
    for i = 1, many do
      if held[i] then
        local deliveries, _, _, body = record.split(held[i])
        if deliveries then
          local _, expires = message.head(body)
          lane.largest = math.max(lane.largest, #body)
          hand(lane, call, deliveries + 1, expires, step, { body }, 1, 1)
        else
          bury(lane, call, "corrupt", 0, step, held[i])
        end
      end
    end
    at = at + many
  end
  return at
end

-- What is due in `unacked` or `delayed` of this step, handed out directly: parked in ready it would lose its order.
-- Answers how many entries are gone from there. Behind dead letters it looks again: what is due behind them goes first.
local function recover(lane, call, step, index, records)
  local gone = 0
  while room(call) > 0 do
    local most = math.min(room(call), MOST_RECOVERED - gone)
    if most == 0 then
      lane.cut, call.limit = true, call.count -- what comes behind them must wait for its turn
      break
    end
    local found = bands.due(index, step, last(lane, call, step), call.now, most)
    gone = gone + take_out(lane, call, step, index, records, found)
    if #found < most then
      break
    end
  end
  return gone
end

local function pop(lane, call, step)
  while lane.sizes[step] > 0 do
    local many = fitting(lane, call)
    local bodies = many > 0 and redis.call("RPOP", KEYS[lane.first + step], many)
    if not bodies then
      return
    end
    lane.sizes[step], lane.left = lane.sizes[step] - #bodies, lane.left - #bodies
    local odd, largest = message.odd(bodies)
    lane.largest = math.max(lane.largest, largest)
    if next(odd) == nil then
      hand(lane, call, 1, 0, step, bodies, 1, #bodies)
    else
      for i = 1, #bodies do
        local head = odd[i]
        if head == false then
          bury(lane, call, "undecodable", 0, step, bodies[i])
        else
          hand(lane, call, head and head.deliveries + 1 or 1, head and head.expires or 0, step, bodies, i, i)
        end
      end
    end
  end
end

-- The last step that has anything in this index.
local function deepest(lane, index, size)
  return size == 0 and 0 or lane.steps > 1 and bands.behind_first(index) and lane.steps or 1
end

-- Everything claimable of one step: expired first, then due, then ready.
function M.take(lane, call, step)
  if lane.paused then
    return
  elseif step == 1 then
    lane.deepest_unacked = call.now >= lane.grace and deepest(lane, lane.unacked, lane.in_unacked) or 0
    lane.deepest_delayed = deepest(lane, lane.delayed, lane.in_delayed)
  end
  if step <= lane.deepest_unacked then
    local n = recover(lane, call, step, lane.unacked, lane.records)
    lane.in_unacked, lane.redelivered = lane.in_unacked - n, lane.redelivered + n
  end
  if step <= lane.deepest_delayed then
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
  local next_due = lane.in_delayed > 0 and bands.earliest(lane.delayed, deepest(lane, lane.delayed, lane.in_delayed))
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
