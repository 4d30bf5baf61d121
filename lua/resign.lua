-- resign: a watcher for messages of stock producers leaves the watch to another consumer, and wakes one.
--
-- The token expires as the watch would have: the queue itself may be deleted by now. Works at full memory.
--
-- KEYS
--   watch            any     the elected watcher; deleted
--   wake             list    tokens
-- ARGV
--   ttl_ms           int     ms that the token lives
-- RETURNS
--   tokens that are there
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local limits = require("lib.limits")

args.keys(2, 0, 0)
local ttl = args.int("ttl_ms", 1, limits.LONGEST_MS)
guard.list(KEYS[2])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

redis.call("DEL", KEYS[1])
local tokens = redis.call("RPUSH", KEYS[2], "1")
redis.call("PEXPIRE", KEYS[2], string.format("%.0f", ttl))
return tokens
