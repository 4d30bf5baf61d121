-- ack: these messages are done with. Each live receipt's message is gone for good; the others change nothing.
--
-- Begins with a freeing command, so it works at full memory. Sent again, it finds nothing and answers so.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   stats            hash
-- ARGV
--   receipt          text    * item    1 to 1000
-- RETURNS
--   positions of the receipts that are not live
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local receipts = require("lib.receipts")

args.keys(3, 0, 0)
local items = args.items("receipt", 1, 1000)
guard.zset(KEYS[1]); guard.hash(KEYS[2]); guard.hash(KEYS[3])
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end
local lost = receipts.ack(KEYS[1], KEYS[2], ARGV)
if #lost < items then
  redis.call("HINCRBY", KEYS[3], "acked", items - #lost)
end
return lost
