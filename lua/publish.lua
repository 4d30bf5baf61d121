-- publish: put messages into one queue, ready or delayed; all of them or, at full memory, none.
--
-- Messages that share their settings travel as a group. "" is ready at once in the first priority step; otherwise
-- settings are six whole numbers: `step delay_ms at_ms ttl_ms alive_ms named`. The step is 1 to the number of ready
-- lists. Due at the server's `at_ms` or, when that is 0, in `delay_ms`. It expires in `ttl_ms`; 0: never. It is delayed
-- only if a consumer was seen within `alive_ms`, else ready at once; 0: always. Named 1: each message has its id
-- before it; 2: and is put once a window.
--
-- A call id seen within the window is answered, not done again. An id that is delayed right now is not put again.
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
--   settings         text    * group
--   count            int     * group   messages in this group; 1,000 in a call
--   id               text    * group * message
--   message          text    * group * message
-- RETURNS
--   one text of whole numbers: now ms; messages put; 1 if the call was a repeated one; positions, over all groups, of
--   messages whose id was known
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local shape = require("lib.shape")

local calls, calls_old, tokens, meta, stats, READY = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], 7
local now, steps, given = clock.now(), args.keys(READY, 1, 10), #ARGV
local call_id, window = args.text("call_id", 96), args.int("window_ms", 1, 31622400000)

local groups, total, largest = {}, 0, 0
while args.at < given and not args.fault do
  local settings, count = args.text("settings", 128), args.int("count", 1, 1000 - total)
  local group = { step = 1, named = 0, bodies = {}, first = total }
  if settings ~= "" then
    local later = require("lib.later")
    later.read(group, settings, steps, now)
  end
  local at, width, bodies = args.at, group.named > 0 and 2 or 1, group.bodies
  args.at, total = at + count * width, total + count
  if args.at > given then
    args.refuse("count", count, "the number of messages that were sent")
    break
  end
  for i = 1, count do
    bodies[i] = ARGV[at + i * width]
  end
  local odd, size = shape.odd(bodies)
  largest = math.max(largest, size)
  for i, head in pairs(odd) do
    if head == false then
      args.refuse("message", bodies[i], 'a JSON object that begins with {"')
    end
  end
  if group.settings then
    local later = require("lib.later")
    later.prepare(group, odd, at)
  end
  groups[#groups + 1] = group
end
if args.fault then
  return redis.error_reply(args.fault)
end

-- All reads. What is wrong with a key is told before anything is written.
local names, skipped, is_known, set, is_waking = {}, {}, false, nil, nil
local function look()
  if call_id ~= "" then
    names[1] = "c" .. call_id
    is_known = redis.call("SISMEMBER", calls_old, names[1]) + redis.call("SISMEMBER", calls, names[1]) > 0
  end
  set, is_waking = redis.call("HMGET", meta, "paused", "largest", "calls_since"), redis.call("LLEN", tokens) > 0
  redis.call("HLEN", stats)
  for i = 1, #groups do
    redis.call("LLEN", KEYS[READY + groups[i].step])
    if groups[i].named > 0 then
      local later = require("lib.later")
      later.look(groups[i], names, skipped)
    end
  end
end
local is_sound, fault = pcall(look)
if not is_sound then
  local guard = require("lib.guard")
  return redis.error_reply(guard.blame(fault, #KEYS, "zset", "hash", "set", "set", "list", "hash", "hash"))
elseif is_known then
  -- A write to wherever the id is, so that a WAIT behind a repeated call waits for the first.
  redis.call("PEXPIRE", calls, 2 * window)
  redis.call("PEXPIRE", calls_old, 2 * window)
  return now .. " " .. total .. " 1"
end

if #names > 0 then
  redis.call("SADD", calls, unpack(names))
end
local size, wakes = 0, false
for i = 1, #groups do
  local group = groups[i]
  local bodies = group.bodies
  size = size + #bodies
  if group.due then
    local later = require("lib.later")
    wakes = later.put(group) or wakes
  elseif #bodies > 0 then
    redis.call("LPUSH", KEYS[READY + group.step], unpack(bodies))
    wakes = true
  end
end
if size > 0 then
  redis.call("HINCRBY", stats, "published", size)
  if largest > (tonumber(set[2]) or 0) then
    redis.call("HSET", meta, "largest", largest)
  end
  if wakes and not is_waking and set[1] ~= "1" then
    redis.call("RPUSH", tokens, "1")
  end
end
local since = tonumber(set[3])
if #names > 0 and (not since or now - since > window) then
  local dedup = require("lib.dedup")
  dedup.turn(calls, calls_old, meta, since, names, window, now)
end
local answer = now .. " " .. size .. " 0"
return #skipped == 0 and answer or answer .. " " .. table.concat(skipped, " ")
