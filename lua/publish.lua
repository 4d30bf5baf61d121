-- publish: put messages into one queue, ready or delayed; all of them or, at full memory, none.
--
-- Messages that share their settings travel as a group. "": all that follows is ready at once, in the first
-- priority step; "t": and it is tracked (see lib/tracking); else they are nine whole numbers:
-- `count step delay_ms at_ms ttl_ms alive_ms named id_ms tracked`. A "p" in front of the first says that this is a
-- partition: nothing is put into one that was never put into and has no record. No consumer would look there.
-- So many messages, 1,000 in a call. The step is 1 to the number of ready lists. Due at the server's `at_ms` or, when
-- that is 0, in `delay_ms`. It expires in `ttl_ms`; 0: never. It is delayed only if a consumer was seen within
-- `alive_ms`, else ready at once; 0: always. Named 1: each message has its id before it; 2: and is put once, for its id
-- is known for `id_ms`. What is put so forgets the result of an older message with its id.
--
-- A producer numbers its calls and has one under way at a time. So the number of its last call decides for every call
-- whether it was done: one whose number is not above it is answered as done, and not done again. An id that is delayed
-- right now is not put again. Begins with a growing command, so a server at full memory refuses it whole.
--
-- What is put into a queue that expires (see `touch`) expires too. Whether it does is looked for where a producer comes
-- for the first time, or no token is there.
--
-- KEYS
--   producer         string  the number of its last call, and which messages that left out; expires
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   ready            list    * step   up to the last one that a message goes to
--   delayed          zset    * named   id -> due (bands); only if messages have ids
--   delayed_records  hash    * named   id -> record
--   ids              zset    * once   id -> until when it is known (ms); only if messages are put once
--   calls            set     * once   ids of messages, as the first release has them
--   calls_old        set     * once   those of the window before
--   result           string  * message   of those that are put once
--   put              string  * message   of those that are tracked: when it was put; expires
--   cancelled        hash    * known   id -> mark (see lib/cancelled); only if tracked ones have ids
-- ARGV
--   call             int     its number, from 1 on; 0: it is not remembered
--   keep_ms          int     for how long a producer is remembered that puts nothing
--   settings         text    * group
--   id               text    * group * message
--   message          text    * group * message
-- RETURNS
--   messages put, if that is all there is to say; else one text of whole numbers: messages put; 1 if the call was a
--   repeated one, 2 if the queue was found to expire, or 0; positions, over all groups, of messages whose id was known
-- ERRORS
--   BADARG  WRONGTYPE  NOPART
local limits = require("lib.limits")
local producer, tokens, meta, stats, ready = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SMALL = limits.SMALL
local call, total, try = ARGV[1], #ARGV - 3, redis.pcall

-- Nearly every call is one group without settings, of messages that begin as Kombu writes them, and comes for the first
-- time. What is here runs for every task there is: nothing is called that can be done without, and three keys are found
-- to be of another type only when they are written. Anything else, and be it a fault, is for lib/publishing.
local number = total > 0 and #call < 15 and #ARGV[2] < 12 and not string.find(call, "%D") and tonumber(call)
local settings = ARGV[3]
local is_tracked = settings == "t" or settings == "pt"
local is_plain = number and total <= 1000 and (settings == "" or settings == "p" or is_tracked)
local puts = is_tracked and total or 0
is_plain = is_plain and #KEYS - puts > 4 and #KEYS - puts < 15
local largest, byte = 0, string.byte
for i = 4, is_plain and total + 3 or 0 do
  local body = ARGV[i]
  local brace, quote = byte(body, 1, 2)
  is_plain = is_plain and brace == 123 and quote == 34
  if #body > largest then
    largest = #body
  end
end
local set, waiting, was = nil, nil, nil
if is_plain then
  waiting = try("LLEN", tokens)
  is_plain = type(waiting) == "number"
  if is_plain and number > 0 then
    was = try("SET", producer, call, "PX", ARGV[2], "GET")
    is_plain = not was or type(was) == "string" and (tonumber(was) or number) < number
  end
  if is_plain and (waiting == 0 or largest > SMALL or was == false) then -- mostly not
    set = try("HMGET", meta, "paused", "largest", "expires")
    is_plain = not set.err
  end
  local published = is_plain and try("HINCRBY", stats, "published", total)
  is_plain = type(published) == "number"
  if is_plain and published == total and string.byte(settings) == 112 then -- p, for the first time
    redis.call("HDEL", stats, "published")
    is_plain = false
  elseif is_plain and type(try("LPUSH", ready, unpack(ARGV, 4))) ~= "number" then
    redis.call("HINCRBY", stats, "published", -total)
    is_plain = false
  end
end
if not is_plain then
  local publishing = require("lib.publishing")
  return publishing.run(was)
end

if largest > SMALL and largest > (tonumber(set[2]) or 0) then
  redis.call("HSET", meta, "largest", largest)
end
if waiting == 0 and set[1] ~= "1" then
  redis.call("RPUSH", tokens, "1")
end
if puts > 0 then
  local tracking = require("lib.tracking")
  tracking.put("r", tracking.now(), #KEYS - total + 1, #KEYS)
end
if set and set[3] then
  redis.call("PEXPIRE", tokens, set[3])
  redis.call("PEXPIRE", stats, set[3])
  redis.call("PEXPIRE", ready, set[3])
  return total .. " 2 "
end
return total
