-- extend: renew leases from now on. Live receipts get `lease_ms` from now; the others change nothing.
--
-- Begins with a freeing command (it frees nothing): refused at full memory, it would cost every living lease.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   meta             hash
--   cancelled        hash    ! and a receipt -> when its message was cancelled (ms)
-- ARGV
--   lease_ms         int     ms from now
--   renew_ms         int     ms between two renewals of a holder
--   beside           int     1: their holder has more now, they are not alone; 0: nothing new
--   receipt          text    * item    1 to 1000
-- RETURNS
--   positions of the receipts that are not live; below 0: of those whose messages are cancelled
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local limits = require("lib.limits")
local outage = require("lib.outage")

local unacked, meta, FIRST, HOUR = KEYS[1], KEYS[3], 4, limits.HOUR_MS
args.keys(4, 0, 0)
local lease, renew = args.int("lease_ms", 0, limits.LONGEST_MS), args.int("renew_ms", 1, limits.LONGEST_MS)
local beside = args.int("beside", 0, 1) == 1
local items = args.items("receipt", 1, 1000)
if args.fault then
  return redis.error_reply(args.fault)
end

-- What is read says of which type its key is, and so does the first write, which changes nothing.
local known = redis.pcall("HMGET", meta, "seen", "grace", "renew", "renewals", "had_grace", "quiet", "cancels")
local scores = items > 0 and redis.pcall("ZMSCORE", unacked, unpack(ARGV, FIRST)) or {}
local freed = not (known.err or scores.err) and redis.pcall("HDEL", KEYS[2], "")
if type(freed) ~= "number" then
  local guard = require("lib.guard")
  return redis.error_reply(guard.blame(freed or known.err and known or scores, 4, "zset", "hash", "hash", "any"))
end

local now = clock.now()
local changes, renewed, lost, seen = {}, {}, {}, {}
outage.look(known[1], known[2], known[3], known[4], known[5], renew, now, changes)
if known[6] and lease < limits.RESOLUTION_MS then
  changes[#changes + 1], changes[#changes + 2] = "quiet", 0
end
for i = 1, items do
  local receipt, score = ARGV[FIRST - 1 + i], scores[i]
  if score and not seen[receipt] then -- one that is named twice is live once
    renewed[#renewed + 1], renewed[#renewed + 2] = bands.moved(score, now + lease, beside), receipt
  else
    lost[#lost + 1], scores[i] = i, false
  end
  seen[receipt] = true
end
if (tonumber(known[7]) or 0) > now then
  local marks = {}
  for i = 1, items do
    marks[i] = "!" .. ARGV[FIRST - 1 + i]
  end
  local cancelled, still = redis.pcall("HMGET", KEYS[4], unpack(marks)), false
  for i = 1, items do
    if scores[i] and cancelled[i] then
      lost[#lost + 1], still = -i, true
    end
  end
  if still then -- as long as its holder lives, its mark counts
    changes[#changes + 1], changes[#changes + 2] = "cancels", string.format("%.0f", math.max(known[7], now + HOUR))
  end
end
if #renewed > 0 then
  redis.call("ZADD", unacked, "XX", unpack(renewed))
end
if #changes > 0 then
  redis.call("HSET", meta, unpack(changes))
end
return lost
