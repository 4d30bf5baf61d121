-- touch: a queue that expires is in use, so its keys live on for as long again.
--
-- What is leased, delayed or dead keeps its keys for good. The queue's `meta` says that it expires, so that what others
-- publish expires with it. Works at full memory.
--
-- KEYS
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   ready            list    * step
-- ARGV
--   expires_ms       int     ms, 100 years at most
-- RETURNS
--   keys that are there
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")

args.keys(3, 1, 10)
local expires = args.int("expires_ms", 1, 3162240000000)
guard.list(KEYS[1]); guard.hash(KEYS[2]); guard.hash(KEYS[3]); guard.ready(4)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local there, ms = 0, string.format("%.0f", expires)
for i = 1, #KEYS do
  there = there + redis.call("PEXPIRE", KEYS[i], ms)
end
if redis.call("HSET", KEYS[2], "expires", ms) == 1 then
  redis.call("PEXPIRE", KEYS[2], ms)
end
return there
