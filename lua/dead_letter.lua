-- dead_letter: a message that was popped off a ready list without a lease, and cannot be read, to dead letters.
--
-- Sent again after a lost reply it finds its own letter among those of the last minute, and adds none. Begins with a
-- freeing command, so it works at full memory.
--
-- KEYS
--   dead             stream
--   stats            hash
-- ARGV
--   call_id          text    kept in the letter
--   attempt          int     0, or more when it is sent again
--   reason           text    one word
--   detail           text    what a person would ask next
--   step             int     priority step it was popped from, 1 to 10
--   keep             text    dead letters kept, `<letters> <ms>`, 0: no limit; "": neither is limited
--   message          text
-- RETURNS
--   1 if it was added, 0 if an earlier attempt did
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local dead = require("lib.dead")
local guard = require("lib.guard")
local limits = require("lib.limits")

local letters, stats = KEYS[1], KEYS[2]
local MINUTE, MOST = 60000, 100 -- ms; letters looked at
args.keys(2, 0, 0)
local call_id, attempt = args.text("call_id", 96), args.int("attempt", 0, 9)
local reason, detail = args.text("reason", 64), args.text("detail", 16384)
local step, keep, body = args.int("step", 1, 10), args.text("keep", 32), args.text("message", limits.LARGEST)
guard.stream(letters); guard.hash(stats); guard.trim(letters, keep)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local from = string.format("%.0f-0", clock.now() - MINUTE)
for _ = 1, attempt > 0 and MOST or 0 do
  local entry = redis.call("XRANGE", letters, from, "+", "COUNT", 1)[1]
  if not entry then
    break
  elseif dead.fields(entry).call_id == call_id then
    return 0
  end
  from = "(" .. entry[1]
end
redis.call("HDEL", stats, "")
local id = dead.add(letters, reason, detail, 1, step, body, call_id)
redis.call("HINCRBY", stats, "dead", 1)
dead.count(stats, 1, reason)
dead.bound(letters, stats, keep, id)
return 1
