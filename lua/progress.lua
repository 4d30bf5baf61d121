-- progress: what the holder of a message says of its progress, for `find`.
--
-- A receipt that is not live changes nothing. Begins with a freeing command (it frees nothing), so it works at full
-- memory.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   track0           hash    id -> where a tracked message is (see lib/tracking); expires
--   track1           hash
-- ARGV
--   tracked          text    the id as its records have it
--   receipt          text
--   value            text    JSON
-- RETURNS
--   1 if it is noted, 0 if the receipt is not live
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local limits = require("lib.limits")
local tracking = require("lib.tracking")

args.keys(3, 0, 0)
local tracked, receipt = args.text("tracked", limits.LARGEST), args.text("receipt", 256)
local value = args.text("value", 65536)
guard.zset(KEYS[1]); guard.hash(KEYS[2]); guard.hash(KEYS[3])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
elseif not redis.call("ZSCORE", KEYS[1], receipt) then
  return 0
end

local us = tracking.now()
redis.call("HDEL", KEYS[2], "")
tracking.write(2, { tracked, tracking.text("h", us, receipt .. "\n" .. value) }, us)
return 1
