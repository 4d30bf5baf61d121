-- register: the names of queues that are in use, and the process that consumes them, are in the register for a while.
--
-- The name of a queue stays until it is taken out (`gone`). A process that does not come again in `alive_ms` counts as
-- gone, and is forgotten at a later call: at most 100 entries that others left behind are removed in one.
--
-- KEYS
--   queues           zset    names, each with the score 0
--   processes        hash    process -> when it came, ms, and its entry
--   alive            zset    process -> until when it counts as there
-- ARGV
--   process          text    its name; "": none, only names of queues
--   alive_ms         int     ms for which it counts as there, an hour at most; 0: it leaves
--   gone             int     1: these queues are no more
--   entry            text    what it says of itself, JSON
--   queue            text    * item    names of queues, 1000 at most
-- RETURNS
--   names that were new, or were taken out
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local guard = require("lib.guard")
local limits = require("lib.limits")

local queues, processes, alive = KEYS[1], KEYS[2], KEYS[3]
local MOST_OVER = 100
args.keys(3, 0, 0)
local process, alive_ms = args.text("process", 96), args.int("alive_ms", 0, limits.HOUR_MS)
local gone, entry = args.int("gone", 0, 1) == 1, args.text("entry", 65536)
local items = args.items("queue", 1, 1000)
guard.zset(queues); guard.hash(processes); guard.zset(alive)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

redis.call("HDEL", processes, "") -- so that a full server knows its workers too
if process ~= "" then
  local now = clock.now()
  if alive_ms > 0 then
    redis.call("ZADD", alive, now + alive_ms, process)
    redis.call("HSET", processes, process, string.format("%.0f ", now) .. entry)
  end
  local over = redis.call("ZRANGEBYSCORE", alive, "-inf", now, "LIMIT", 0, MOST_OVER)
  if alive_ms == 0 then
    over[#over + 1] = process
  end
  if over[1] then
    redis.call("ZREM", alive, unpack(over))
    redis.call("HDEL", processes, unpack(over))
  end
end
if gone and items > 0 then
  return redis.call("ZREM", queues, unpack(ARGV, args.at + 1))
end
local changed = 0
for i = 1, items do
  changed = changed + redis.call("ZADD", queues, 0, ARGV[args.at + i])
end
return changed
