-- partitions: over which partitions a queue is spread, as one of its clients wrote it first, or raised it last.
--
-- Partition 0 has the name of the queue, and this record is in its meta. The others have names of their own; a copy
-- with them tells where the others are while the server of the first is away.
--
-- KEYS
--   meta             hash
-- ARGV
--   map              text    to be written: how many, and the number behind each name; "": only look
--   before           text    the record that `map` replaces, to the letter; "": it is written if there is none
-- RETURNS
--   the record as it is now; "" if there is none
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")

args.keys(1, 0, 0)
local map = args.text("map", 8192)
local before = args.text("before", 8192)
guard.hash(KEYS[1])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local known = redis.call("HGET", KEYS[1], "partitions")
if map ~= "" and (known or "") == before then
  redis.call("HSET", KEYS[1], "partitions", map)
  known = map
end
return known or ""
