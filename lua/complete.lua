-- complete: ack messages, store their results and publish them to the waiters, in one move.
--
-- A receipt that is not live changes nothing: no result of a consumer that lost the message is stored. Begins with a
-- freeing command, so it works at full memory.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   result           string  * item    also the channel its waiters listen on
-- ARGV
--   ttl_ms           int     ms that a result is kept
--   sharded          int     1: its channel is a sharded one too
--   receipt          text    * item    1 to 1000; those of tracked messages last, a blank and the id behind each
--   value            text    * item    the result, JSON
-- RETURNS
--   positions of the receipts that are not live
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local limits = require("lib.limits")
local receipts = require("lib.receipts")
local results = require("lib.results")

local unacked, records, stats, RESULT = KEYS[1], KEYS[2], KEYS[3], 6
local ttl, sharded = args.int("ttl_ms", 1, limits.LONGEST_MS), args.int("sharded", 0, 1)
local items = args.items("receipt and value", 2, 1000)
args.keys(RESULT - 1, items, items)
guard.zset(unacked); guard.hash(stats)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local names, is_lost = {}, {}
for i = 1, items do
  names[i] = ARGV[args.at + 2 * i - 1]
end
local lost, ended = receipts.ack(unacked, records, names)
if not lost then
  guard.checked(ended, records, "HDEL")
  return redis.error_reply(guard.fault)
end
if #lost < items then
  redis.call("HINCRBY", stats, "acked", items - #lost)
end
if ended then
  local tracking = require("lib.tracking")
  local us = tracking.now()
  tracking.write(4, tracking.done(nil, ended, us), us)
end
for i = 1, #lost do
  is_lost[lost[i]] = true
end
for i = 1, items do
  if not is_lost[i] then
    results.tell(KEYS[RESULT + i - 1], ARGV[args.at + 2 * i], ttl, sharded)
  end
end
return lost
