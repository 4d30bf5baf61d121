-- publish: put messages into one queue, ready or delayed; all of them or, at full memory, none.
--
-- Messages that share their settings travel as a group. A call id seen within the window is answered, not done
-- again. With `dedup`, an id seen within the window is not put again; an id that is delayed right now never is.
-- Begins with a growing command, so a server at full memory refuses it whole.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   calls            set     call ids and message ids seen
--   calls_old        set     those of the window before
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   ready            list    * step
-- ARGV
--   call_id          text    "" is not remembered
--   window_ms        int     ms that ids are remembered, at least
--   step             int     * group   1 to the number of ready lists
--   delay_ms         int     * group   ms from now
--   at_ms            int     * group   server ms; when 0, delay_ms counts
--   ttl_ms           int     * group   ms from now until it expires; 0: never
--   alive_ms         int     * group   delay only if a consumer was seen in so many ms, else ready at once; 0: always
--   named            int     * group   0: messages alone, 1: each has its id before it, 2: and is put once a window
--   count            int     * group   messages in this group; 1,000 in a call
--   id               text    * group * message
--   message          text    * group * message
-- RETURNS
--   now ms; messages put; positions, over all groups, of those whose id was known; 1 if the call was a repeated one
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local dedup = require("lib.dedup")
local guard = require("lib.guard")
local message = require("lib.message")
local record = require("lib.record")

local delayed, delayed_records, calls, calls_old = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local tokens, meta, stats, READY = KEYS[5], KEYS[6], KEYS[7], 8
local LONGEST = 4398046511103 -- the last ms a band holds
local now = clock.now()
local steps = args.keys(READY - 1, 1, 10)
local call_id, window = args.text("call_id", 96), args.int("window_ms", 1, 31622400000)
guard.zset(delayed); guard.hash(delayed_records); guard.hash(stats); guard.ready(READY)
dedup.open(calls, calls_old)
local is_waking = guard.list(tokens) > 0
local set = guard.fields(meta, "paused", "largest", "timer_at", "calls_since", "seen")

local groups, total, largest = {}, 0, 0
while args.at < #ARGV and not args.fault do
  local group = {
    step = args.int("step", 1, steps), delay = args.int("delay_ms", 0, LONGEST),
    at = args.int("at_ms", 0, LONGEST), ttl = args.int("ttl_ms", 0, LONGEST),
    alive = args.int("alive_ms", 0, LONGEST),
    named = args.int("named", 0, 2), ids = {}, bodies = {},
  }
  total = total + args.messages(group, 1000 - total)
  group.due = math.min(group.at > 0 and group.at or now + group.delay, LONGEST)
  if group.due > now and group.named == 0 then
    args.refuse("named", 0, "1 or 2: what is delayed needs an id")
  end
  local bodies = group.bodies
  local odd, size = message.odd(bodies)
  largest = math.max(largest, size)
  for i, head in pairs(odd) do
    if head == false then
      args.refuse("message", bodies[i], 'a JSON object that begins with {"')
    end
  end
  if group.ttl > 0 then
    for i = 1, #bodies do
      bodies[i] = message.with(bodies[i], odd[i] and odd[i].deliveries or 0, math.min(now + group.ttl, LONGEST))
    end
  end
  groups[#groups + 1] = group
end
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local ids = {}
if call_id ~= "" then
  ids[1] = "c" .. call_id
  if dedup.known(calls, calls_old, ids)[1] then
    -- A write to wherever the id is, so that a WAIT behind a repeated call waits for the first.
    redis.call("PEXPIRE", calls, 2 * window)
    redis.call("PEXPIRE", calls_old, 2 * window)
    return { now, total, {}, 1 }
  end
end

-- Without the messages whose id is known; their positions go to `skipped`.
local skipped, before = {}, 0
local function fresh(group)
  local names, bodies, seen = {}, {}, {}
  local known, waiting = {}, redis.call("ZMSCORE", delayed, unpack(group.ids))
  for i = 1, #group.ids do
    names[i] = "m" .. group.ids[i]
  end
  if group.named == 2 then
    known = dedup.known(calls, calls_old, names)
  end
  local kept = {}
  for i = 1, #names do
    if waiting[i] or known[i] or seen[names[i]] then
      skipped[#skipped + 1] = before + i
    else
      seen[names[i]] = true
      kept[#kept + 1], bodies[#bodies + 1] = group.ids[i], group.bodies[i]
      if group.named == 2 then
        ids[#ids + 1] = names[i]
      end
    end
  end
  group.ids, group.bodies = kept, bodies
end

local function put(group)
  if group.due <= now then
    redis.call("LPUSH", KEYS[READY + group.step - 1], unpack(group.bodies))
    return
  end
  local held, scores = {}, {}
  local header, score = record.header(0, group.step, now), bands.score(group.step, group.due)
  for i = 1, #group.bodies do
    held[2 * i - 1], held[2 * i] = group.ids[i], header .. group.bodies[i]
    scores[2 * i - 1], scores[2 * i] = score, group.ids[i]
  end
  redis.call("HSET", delayed_records, unpack(held))
  redis.call("ZADD", delayed, unpack(scores))
end

local timer_at, is_ready, soonest = tonumber(set[3]) or 0, false, nil
local size = 0
for _, group in ipairs(groups) do
  local count = #group.bodies
  if group.alive > 0 and now - (tonumber(set[5]) or 0) > group.alive then
    group.due = now
  end
  if #group.ids > 0 then
    fresh(group)
  end
  before, size = before + count, size + #group.bodies
  if #group.bodies > 0 then
    put(group)
    is_ready = is_ready or group.due <= now
    soonest = group.due > now and math.min(soonest or LONGEST, group.due) or soonest
  end
end
if #ids > 0 then
  dedup.remember(calls, calls_old, meta, set[4], ids, window, now)
end
if size > 0 then
  redis.call("HINCRBY", stats, "published", size)
  if largest > (tonumber(set[2]) or 0) then
    redis.call("HSET", meta, "largest", largest)
  end
  -- A delayed message wakes somebody only if it falls due before whatever is waited for.
  if not is_waking and set[1] ~= "1" and (is_ready or timer_at <= now or soonest < timer_at) then
    redis.call("RPUSH", tokens, "1")
  end
end
return { now, size, skipped, 0 }
