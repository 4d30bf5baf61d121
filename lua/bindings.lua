-- bindings: which queues an exchange of Kombu's leads to, on a cluster; one may be added, or taken out.
--
-- A binding of a queue that expires has a deadline, which its consumers push on. Once it is over, the next calls take
-- it out. Where there are no other bindings the key expires, a day after the last deadline: releases up to 8d693af push
-- on deadlines and not the life of the key. Works at full memory.
--
-- KEYS
--   bindings         zset    binding -> deadline, or inf
-- ARGV
--   added            text    a binding; "": none
--   lives_ms         int     ms until its deadline, 200 years at most; 0: it has none
--   removed          text    a binding; "": none
-- RETURNS
--   the bindings that are there
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local guard = require("lib.guard")
local limits = require("lib.limits")

args.keys(1, 0, 0)
local added = args.text("added", limits.LARGEST)
local lives = args.int("lives_ms", 0, 6324480000000)
local removed = args.text("removed", limits.LARGEST)
guard.zset(KEYS[1])
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local key, now = KEYS[1], clock.now()
local changed = added ~= "" or removed ~= ""
local over = redis.call("ZRANGEBYSCORE", key, "-inf", string.format("(%.0f", now), "LIMIT", 0, 100)
if changed or over[1] then
  redis.call("ZREM", key, removed, unpack(over)) -- it comes first, as it frees
end
if added ~= "" then
  redis.call("ZADD", key, "GT", lives == 0 and "inf" or now + lives, added)
end
if changed then
  local last = redis.call("ZREVRANGE", key, 0, 0, "WITHSCORES")[2]
  if last == "inf" then
    -- Rules of users that older releases printed do not grant it. It is needed only behind a binding that expires.
    redis.pcall("PERSIST", key)
  elseif last then
    redis.call("PEXPIRE", key, last - now + 24 * limits.HOUR_MS)
  end
end
return redis.call("ZRANGEBYSCORE", key, now, "inf")
