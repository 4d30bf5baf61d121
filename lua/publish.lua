-- publish: put messages into one queue, ready or delayed; all of them or, at full memory, none.
--
-- Messages that share their settings travel as a group. "" says that all that follows is ready at once, in the first
-- priority step; else they are nine whole numbers: `count step delay_ms at_ms ttl_ms alive_ms named id_ms window_ms`.
-- So many messages, 1,000 in a call. The step is 1 to the number of ready lists. Due at the server's `at_ms` or, when
-- that is 0, in `delay_ms`. It expires in `ttl_ms`; 0: never. It is delayed only if a consumer was seen within
-- `alive_ms`, else ready at once; 0: always. Named 1: each message has its id before it; 2: and is put once, for its id
-- is known for `id_ms`. What is put so forgets the result of an older message with its id. The id of the call is
-- remembered for the longest `window_ms`, and for two minutes at least.
--
-- A call id that is remembered is answered as it was, not done again. An id that is delayed right now is not put again.
-- Begins with a growing command, so a server at full memory refuses it whole.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   calls            set     ids of calls seen, and which messages each of them left out
--   calls_old        set     those of the window before
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   ready            list    * step
--   ids              zset    * once   id -> until when it is known (ms); only if messages are put once
--   result           string  * message   of these
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
local calls, calls_old, tokens, meta, stats, ready = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SMALL = 8192 -- see lib/claiming
local call_id, total, time, try = ARGV[1] or "", #ARGV - 2, redis.call("TIME"), redis.pcall

-- Nearly every call is one group without settings, of messages that begin as Kombu writes them, and comes for the first
-- time. What is here runs for every task there is: nothing is called that can be done without, and two keys are found
-- to be of another type only when they are written. Anything else, and be it a fault, is for lib/publishing.
local is_plain = total > 0 and total <= 1000 and #call_id <= 96 and ARGV[2] == "" and #KEYS > 7 and #KEYS < 18
local largest, byte = 0, string.byte
for i = 3, is_plain and total + 2 or 0 do
  local body = ARGV[i]
  local brace, quote = byte(body, 1, 2)
  is_plain = is_plain and brace == 123 and quote == 34
  if #body > largest then
    largest = #body
  end
end
local name, set, waiting = "c" .. call_id, nil, nil
if is_plain then
  set, waiting = try("HMGET", meta, "paused", "largest", "calls_turn"), try("LLEN", tokens)
  is_plain = not set.err and type(waiting) == "number"
    and (call_id == "" or try("SISMEMBER", calls, name) == 0 and try("SISMEMBER", calls_old, name) == 0)
    and type(try("HINCRBY", stats, "published", total)) == "number"
  if is_plain and type(try("LPUSH", ready, unpack(ARGV, 3))) ~= "number" then
    redis.call("HINCRBY", stats, "published", -total)
    is_plain = false
  end
end
if not is_plain then
  local publishing = require("lib.publishing")
  return publishing.run(time)
end

if call_id ~= "" then
  redis.call("SADD", calls, name)
  if not set[3] or time[1] > set[3] then
    local dedup = require("lib.dedup")
    dedup.keep(calls, calls_old, meta, { name }, 0, time[1], set[3])
  end
end
if largest > SMALL and largest > (tonumber(set[2]) or 0) then
  redis.call("HSET", meta, "largest", largest)
end
if waiting == 0 and set[1] ~= "1" then
  redis.call("RPUSH", tokens, "1")
end
return time[1] .. " " .. time[2] .. " " .. total .. " 0"
