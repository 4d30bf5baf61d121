-- put_back: a message that was popped off a ready list without a lease goes back to the end it was popped from.
--
-- For a consumer without acks that has left. Sent again after a lost answer, the script finds its own message next in
-- line, unless a consumer has taken it, and adds none. Begins with a freeing command, so it works at full memory.
--
-- KEYS
--   stats            hash
--   ready            list    * step    the one it was popped from
-- ARGV
--   attempt          int     0, or more when it is sent again
--   message          text
-- RETURNS
--   1 if it was added, 0 if an earlier attempt did
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local limits = require("lib.limits")

local stats, ready = KEYS[1], KEYS[2]
args.keys(2, 0, 0)
local attempt, message = args.int("attempt", 0, 9), args.text("message", limits.LARGEST)
guard.hash(stats); guard.list(ready)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

if attempt > 0 and redis.call("LINDEX", ready, -1) == message then
  return 0
end
redis.call("HDEL", stats, "")
redis.call("RPUSH", ready, message)
return 1
