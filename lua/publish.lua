-- publish: put messages into one queue, ready or delayed; all of them or, at full memory, none.
--
-- Messages that share their settings travel as a group. "" says that all that follows is ready at once, in the first
-- priority step; otherwise they are eight whole numbers: `count step delay_ms at_ms ttl_ms alive_ms named window_ms`.
-- So many messages, 1,000 in a call. The step is 1 to the number of ready lists. Due at the server's `at_ms` or, when
-- that is 0, in `delay_ms`. It expires in `ttl_ms`; 0: never. It is delayed only if a consumer was seen within
-- `alive_ms`, else ready at once; 0: always. Named 1: each message has its id before it; 2: and is put once a window.
-- Ids are remembered for `window_ms`, and for two minutes at least.
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
--   settings         text    * group
--   id               text    * group * message
--   message          text    * group * message
-- RETURNS
--   one text of whole numbers: the time in seconds and microseconds; messages put; 1 if the call was a repeated one;
--   positions, over all groups, of messages whose id was known
-- ERRORS
--   BADARG  WRONGTYPE
local calls, calls_old, tokens, meta, stats, READY = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], 7
local SMALL = 8192 -- bytes; see claim
local call_id, total, time = ARGV[1], #ARGV - 2, redis.call("TIME")

-- Nearly every call is one group without settings, of messages that begin as Kombu writes them. Anything else, and be
-- it a fault, is read with more care. What is here runs for every task there is: no number is made a text, or the other
-- way round, and nothing is called that can be done without.
local is_plain = total > 0 and total <= 1000 and #call_id <= 96 and ARGV[2] == "" and #KEYS > READY and #KEYS < 18
local largest, window, byte = 0, false, string.byte
for i = 3, is_plain and total + 2 or 0 do
  local body = ARGV[i]
  local brace, quote, first = byte(body, 1, 3)
  is_plain = is_plain and brace == 123 and quote == 34 and first ~= 120 -- not "x-...
  if #body > largest then
    largest = #body
  end
end
local groups
if is_plain then
  groups = { { step = 1, named = 0, bodies = ARGV, from = 3, to = total + 2 } }
else
  local given = require("lib.given")
  groups, total, largest, window = given.groups(READY, time)
  if not groups then
    return redis.error_reply(given.fault())
  end
end

-- All reads. What is wrong with a key is told before anything is written.
local names, skipped, is_known, set, is_waking = {}, {}, false, nil, nil
local function look()
  if call_id ~= "" then
    names[1] = "c" .. call_id
    is_known = redis.call("SISMEMBER", calls, names[1]) + redis.call("SISMEMBER", calls_old, names[1]) > 0
  end
  set, is_waking = redis.call("HMGET", meta, "paused", "largest", "calls_turn"), redis.call("LLEN", tokens) > 0
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
end

local answer = time[1] .. " " .. time[2] .. " "
if is_known then
  local dedup = require("lib.dedup")
  dedup.touch(calls, calls_old, meta)
  return answer .. total .. " 1"
end
if #names > 0 then
  redis.call("SADD", calls, unpack(names))
end
local size, wakes = 0, false
for i = 1, #groups do
  local group = groups[i]
  local count = group.to - group.from + 1
  size = size + count
  if group.due then
    local later = require("lib.later")
    wakes = later.put(group) or wakes
  elseif count > 0 then
    redis.call("LPUSH", KEYS[READY + group.step], unpack(group.bodies, group.from, group.to))
    wakes = true
  end
end
if size > 0 then
  redis.call("HINCRBY", stats, "published", size == 1 and "1" or size)
  if largest > SMALL and largest > (tonumber(set[2]) or 0) then
    redis.call("HSET", meta, "largest", largest)
  end
  if wakes and not is_waking and set[1] ~= "1" then
    redis.call("RPUSH", tokens, "1")
  end
end
if #names > 0 and (window or not set[3] or time[1] > set[3]) then
  local dedup = require("lib.dedup")
  dedup.keep(calls, calls_old, meta, names, window, time[1])
end
answer = answer .. (size == 1 and "1" or size) .. " 0"
return #skipped == 0 and answer or answer .. " " .. table.concat(skipped, " ")
