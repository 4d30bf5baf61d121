-- roster: the register, read: names of queues in their order, and the processes that are there. Changes nothing.
--
-- KEYS
--   queues           zset    names, each with the score 0
--   processes        hash    process -> when it came, ms, and its entry
--   alive            zset    process -> until when it counts as there
-- ARGV
--   after            text    the last name of the page before; "": from the first on
--   limit            int     names at most: 1 to 1000
-- RETURNS
--   now, ms; names; 1000 processes at most, each followed by its entry; how many processes are there
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local guard = require("lib.guard")

local queues, processes, alive = KEYS[1], KEYS[2], KEYS[3]
args.keys(3, 0, 0)
local after, limit = args.text("after", 2048), args.int("limit", 1, 1000)
guard.zset(queues); guard.hash(processes); guard.zset(alive)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, found = clock.now(), {}
local from = after == "" and "-" or "(" .. after
local names = redis.call("ZRANGE", queues, from, "+", "BYLEX", "LIMIT", 0, limit)
local there = redis.call("ZRANGEBYSCORE", alive, "(" .. string.format("%.0f", now), "+inf", "LIMIT", 0, 1000)
if #there > 0 then
  local entries = redis.call("HMGET", processes, unpack(there))
  for i = 1, #there do
    found[2 * i - 1], found[2 * i] = there[i], entries[i] or ""
  end
end
return { now, names, found, redis.call("ZCOUNT", alive, "(" .. string.format("%.0f", now), "+inf") }
