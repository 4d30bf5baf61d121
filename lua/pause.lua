-- pause: a paused queue takes messages and hands out none; resume wakes a waiting consumer.
--
-- KEYS
--   wake             list    tokens
--   meta             hash
-- ARGV
--   paused           int     1: pause, 0: resume
-- RETURNS
--   1 if it was paused before
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local wake = require("lib.wake")

args.keys(2, 0, 0)
local paused = args.int("paused", 0, 1)
guard.list(KEYS[1]); guard.hash(KEYS[2])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local was = redis.call("HEXISTS", KEYS[2], "paused")
if paused == 1 then
  redis.call("DEL", KEYS[1]) -- frees, so that a full server can be paused too
  redis.call("HSET", KEYS[2], "paused", 1)
else
  redis.call("HDEL", KEYS[2], "paused")
  wake.one(KEYS[1], false)
end
return was
