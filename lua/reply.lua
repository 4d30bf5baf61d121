-- reply: a reply of Celery's remote control, into the list on which its client waits. The list expires.
--
-- A stock client waits on the list itself and may be gone: the queue gets no keys of ours, and no token. Sent again
-- after a lost answer, the script finds its own message at the head of the list, unless the client has popped it, and
-- adds none.
--
-- KEYS
--   ready            list    * step    the one of priority 0
-- ARGV
--   attempt          int     0, or more when it is sent again
--   ttl_ms           int     ms that the list lives on
--   message          text
-- RETURNS
--   1 if it was added, 0 if an earlier attempt did
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local limits = require("lib.limits")

args.keys(1, 0, 0)
local attempt, ttl = args.int("attempt", 0, 9), args.int("ttl_ms", 1, limits.LONGEST_MS)
local message = args.text("message", limits.LARGEST)
guard.list(KEYS[1])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local is_there = attempt > 0 and redis.call("LINDEX", KEYS[1], 0) == message
if not is_there then
  redis.call("LPUSH", KEYS[1], message)
end
redis.call("PEXPIRE", KEYS[1], string.format("%.0f", ttl))
return is_there and 0 or 1
