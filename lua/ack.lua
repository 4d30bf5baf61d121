-- ack: these messages are done with. Each live receipt's message is gone for good; the others change nothing.
--
-- Begins with a freeing command, so it works at full memory. Sent again, it finds nothing and answers so.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   stats            hash
--   track0           hash    * tracked   1 if there are tracked messages, else 0: where they are (see lib/tracking)
--   track1           hash    * tracked
-- ARGV
--   receipt          text    * item    1 to 1000; those of tracked messages last, a blank and the id behind each
-- RETURNS
--   positions of the receipts that are not live
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local receipts = require("lib.receipts")

args.keys(3, 0, 2)
local items = args.items("receipt", 1, 1000)
guard.zset(KEYS[1]); guard.hash(KEYS[3])
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end
local lost, ended = receipts.ack(KEYS[1], KEYS[2], ARGV)
if not lost then
  guard.checked(ended, KEYS[2], "HDEL")
  return redis.error_reply(guard.fault)
end
if #lost < items then
  redis.call("HINCRBY", KEYS[3], "acked", items - #lost)
end
if ended and KEYS[5] then
  local tracking = require("lib.tracking")
  local us = tracking.now()
  tracking.write(4, tracking.done(nil, ended, us), us)
end
return lost
