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
local guard = require("lib.guard")
local limits = require("lib.limits")
local outage = require("lib.outage")
local receipts = require("lib.receipts")

local unacked, records, meta, HOUR = KEYS[1], KEYS[2], KEYS[3], limits.HOUR_MS
args.keys(4, 0, 0)
local lease, renew = args.int("lease_ms", 0, limits.LONGEST_MS), args.int("renew_ms", 1, limits.LONGEST_MS)
local beside = args.int("beside", 0, 1) == 1
local items = args.items("receipt", 1, 1000)
guard.zset(unacked); guard.hash(records); guard.hash(meta)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, names = clock.now(), {}
for i = 1, items do
  names[i] = ARGV[args.at + i]
end
local known = redis.call("HMGET", meta, "seen", "grace", "renew", "renewals", "had_grace", "quiet",
  "cancels")
local changes, renewed, lost = {}, {}, {}
outage.look(known[1], known[2], known[3], known[4], known[5], renew, now, changes)
if known[6] and lease < outage.RESOLUTION then
  changes[#changes + 1], changes[#changes + 2] = "quiet", 0
end
local scores = receipts.scores(unacked, names)
for i = 1, items do
  if scores[i] then
    renewed[#renewed + 1], renewed[#renewed + 2] = bands.moved(scores[i], now + lease, beside), names[i]
  else
    lost[#lost + 1] = i
  end
end
if (tonumber(known[7]) or 0) > now then
  local marks = {}
  for i = 1, items do
    marks[i] = "!" .. names[i]
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
redis.call("HDEL", records, "")
if #renewed > 0 then
  redis.call("ZADD", unacked, "XX", unpack(renewed))
end
if #changes > 0 then
  redis.call("HSET", meta, unpack(changes))
end
return lost
