-- One queue as a claim sees it: sizes and settings read before anything is written, what it hands out collected in
-- memory, and written in a handful of commands at the end. What falls due is in lib/recovery: most claims find none.
local bands = require("lib.bands")
local outage = require("lib.outage")
local record = require("lib.record")
local shape = require("lib.shape")

local M = { FIXED = 8, MOST_DEATHS = 100 } -- a claim that sent so many to dead letters stops, though it has room
local SMALL = 8192 -- bytes; below this the size of a message does not limit how many are popped at once

-- The queue whose keys begin behind KEYS[at]. Reads, and nothing else: an error here has changed nothing.
function M.open(at, call, acks)
  local steps, now, first, sizes, left = call.steps, call.now, at + M.FIXED, {}, 0
  for step = 1, steps do
    local size = redis.call("LLEN", KEYS[first + step])
    sizes[step], left = size, left + size
  end
  local set = redis.call("HMGET", KEYS[at + 7], "paused", "seen", "grace", "renew", "largest", "steps")
  local known_steps, largest, changes = tonumber(set[6]) or 0, tonumber(set[5]) or 0, {}
  if largest < SMALL then
    largest = SMALL
  end
  if known_steps < steps then
    changes[1], changes[2], known_steps = "steps", steps, steps
  end
  redis.call("XLEN", KEYS[at + 5])
  local lane = {
    unacked = KEYS[at + 1], records = KEYS[at + 2], delayed = KEYS[at + 3], wake = KEYS[at + 6], at = at,
    first = first, index = at / (M.FIXED + steps) + 1, steps = known_steps, sizes = sizes, left = left,
    in_unacked = redis.call("ZCARD", KEYS[at + 1]), in_delayed = redis.call("ZCARD", KEYS[at + 3]),
    tokens = redis.call("LLEN", KEYS[at + 6]), counts = redis.call("HMGET", KEYS[at + 8], "delivered", "acked"),
    paused = set[1] == "1", largest = largest, known_largest = largest, changes = changes, acks = acks, acked = 0,
    grace = outage.grace(set[2], set[3], set[4], call.renew, now, changes),
    held = {}, scores = {}, delivered = 0, redelivered = 0, deaths = 0, stirs = false, cut = false,
  }
  if lane.in_delayed > 0 then
    redis.call("HLEN", KEYS[at + 4])
  end
  return lane
end

function M.change(lane, field, value)
  lane.changes[#lane.changes + 1], lane.changes[#lane.changes + 2] = field, value
end

function M.bury(lane, call, reason, deliveries, step, body)
  local dead = require("lib.dead")
  dead.add(KEYS[lane.at + 5], reason, "", deliveries, step, body)
  lane.deaths, call.deaths, call.bytes = lane.deaths + 1, call.deaths + 1, call.bytes + #body
end

-- Lease messages (bodies[from] to bodies[to], alike but for their bytes) to the caller, or send them to dead letters
-- when they may not be delivered (again). One loop over locals: this is where a claim spends its time.
function M.hand(lane, call, deliveries, expires, step, bodies, from, to)
  local spent = call.max_deliveries > 0 and deliveries > call.max_deliveries
  if spent or expires > 0 and expires <= call.now then
    for i = from, to do
      M.bury(lane, call, spent and "max_deliveries" or "expired", deliveries - 1, step, bodies[i])
    end
    return
  end
  local known = deliveries * 16 + step
  local header, deadline = call.headers[known], call.deadlines[step]
  if not header then
    header, deadline = record.header(deliveries, step, call.now), bands.score(step, call.now + call.lease)
    call.headers[known], call.deadlines[step] = header, deadline
  end
  local receipts, count, bytes, index = call.receipts, call.count, call.bytes, lane.index
  local out, held, scores, o, n = call.out, lane.held, lane.scores, 5 * count + 1, 2 * lane.delivered
  for i = from, to do
    local body, receipt = bodies[i], receipts[count + 1]
    out[o + 1], out[o + 2], out[o + 3], out[o + 4], out[o + 5] = index, receipt, deliveries, step, body
    held[n + 1], held[n + 2] = receipt, header .. body
    scores[n + 1], scores[n + 2] = deadline, receipt
    count, o, n, bytes = count + 1, o + 5, n + 2, bytes + #body
  end
  call.count, call.bytes, lane.delivered = count, bytes, n / 2
end

function M.room(call)
  if call.bytes >= call.max_bytes and call.count + call.deaths > 0 or call.deaths >= M.MOST_DEATHS then
    return 0
  end
  return call.limit - call.count
end

-- How many messages surely fit: the first alone, for sizes are unknown until one is read.
function M.fitting(lane, call)
  local free = M.room(call)
  if free == 0 or call.count == 0 then
    return math.min(free, 1)
  end
  return math.max(1, math.min(free, math.floor((call.max_bytes - call.bytes) / lane.largest)))
end

local function pop(lane, call, step)
  while lane.sizes[step] > 0 do
    local many = M.fitting(lane, call)
    local bodies = many > 0 and redis.call("RPOP", KEYS[lane.first + step], many)
    if not bodies then
      return
    end
    call.freed = true
    lane.sizes[step], lane.left = lane.sizes[step] - #bodies, lane.left - #bodies
    local odd, largest = shape.odd(bodies)
    lane.largest = math.max(lane.largest, largest)
    if next(odd) == nil then
      M.hand(lane, call, 1, 0, step, bodies, 1, #bodies)
    else
      for i = 1, #bodies do
        local head = odd[i]
        if head == false then
          M.bury(lane, call, "undecodable", 0, step, bodies[i])
        else
          M.hand(lane, call, head and head.deliveries + 1 or 1, head and head.expires or 0, step, bodies, i, i)
        end
      end
    end
  end
end

-- Is anything due in this index, or may it be, behind the first step?
local function stirs(lane, call, index)
  return redis.call("ZCOUNT", index, "-inf", call.now) > 0 or lane.steps > 1 and bands.behind_first(index)
end

-- Everything claimable of one step: expired first, then due, then ready.
function M.take(lane, call, step)
  if lane.paused then
    return
  elseif step == 1 then
    lane.stirs = lane.in_unacked > 0 and call.now >= lane.grace and stirs(lane, call, lane.unacked)
      or lane.in_delayed > 0 and stirs(lane, call, lane.delayed)
  end
  if lane.stirs then
    local recovery = require("lib.recovery")
    recovery.take(lane, call, step)
  end
  pop(lane, call, step)
end

-- Write what was collected, and leave a token if somebody should claim again.
function M.close(lane, call)
  local wake, counts = false, {}
  if lane.paused then
    wake = false
  elseif lane.left > 0 or lane.cut then
    wake = true
  elseif lane.stirs or lane.in_delayed > 0 then
    local recovery = require("lib.recovery")
    wake = recovery.more(lane, call)
  end
  if wake == true then
    call.more[#call.more + 1] = lane.index
  end
  if not call.freed and (wake or #lane.changes > 0) then
    redis.call("DEL", lane.wake) -- frees nothing, and lifts the check at full memory
    lane.tokens, call.freed = 0, true
  end
  if lane.delivered > 0 then
    redis.call("HSET", lane.records, unpack(lane.held))
    redis.call("ZADD", lane.unacked, unpack(lane.scores))
    counts[1], counts[2] = "delivered", (tonumber(lane.counts[1]) or 0) + lane.delivered
  end
  if lane.acked > 0 then
    counts[#counts + 1] = "acked"
    counts[#counts + 1] = (tonumber(lane.counts[2]) or 0) + lane.acked
  end
  if #counts > 0 then
    redis.call("HSET", KEYS[lane.at + 8], unpack(counts))
  end
  if lane.redelivered > 0 then
    redis.call("HINCRBY", KEYS[lane.at + 8], "expired", lane.redelivered)
  end
  if lane.deaths > 0 then
    redis.call("HINCRBY", KEYS[lane.at + 8], "dead", lane.deaths)
  end
  if lane.largest > lane.known_largest then
    M.change(lane, "largest", lane.largest)
  end
  if #lane.changes > 0 then
    redis.call("HSET", KEYS[lane.at + 7], unpack(lane.changes))
  end
  if wake and lane.tokens == 0 then
    redis.call("RPUSH", lane.wake, "1")
  elseif not wake and lane.tokens > 0 then
    redis.call("DEL", lane.wake)
  end
end

return M
