-- revoke: one message that is ready or held is not to be worked on.
--
-- What is ready is taken out, if it is among the first or last of a list; a tracked one is noted, and the claim that
-- meets it drops it. What waits to go alone is taken out too: no consumer holds it. What is held stays with its
-- holder, which hears of it when it renews its lease; released, or taken from a holder that died, it is dropped. Its id
-- is free from now on, though it is held still: what drops it later knows no ids. Begins with a freeing command, so it
-- works at full memory.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   ids              zset    id -> until when it is known (ms)
--   meta             hash
--   stats            hash
--   track0           hash    id -> where a tracked message is (see lib/tracking); expires
--   track1           hash
--   cancelled        hash    id, or ! and a receipt -> when it was cancelled (ms); expires
--   put              string  when it was put, if it is tracked
--   result           string
--   ready            list    * step
-- ARGV
--   tracked          text    the id as its records have it
--   id               text
--   receipt          text    its holder's, or what it is called while it waits to go alone; "": it is ready
--   limit            int     messages to look at in each list, 0 to 1000, half of them at either end
--   message          text    as it lies there; "": the one that a record says is ready
-- RETURNS
--   1 if it was there and is revoked, else 0
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local cancelled = require("lib.cancelled")
local clock = require("lib.clock")
local guard = require("lib.guard")
local limits = require("lib.limits")
local tracking = require("lib.tracking")

local unacked, records, ids, meta, stats, marks, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[8], 11
local MONTH = 2592000000 -- ms that a message may lie in ready until the claim that drops it
local steps = args.keys(READY - 1, 1, 10)
local tracked, id = args.text("tracked", limits.LARGEST), args.text("id", limits.LARGEST)
local receipt, limit = args.text("receipt", 256), args.int("limit", 0, 1000)
local body = args.text("message", limits.LARGEST)
guard.zset(unacked); guard.hash(records); guard.zset(ids); guard.hash(meta); guard.hash(stats); guard.hash(marks)
local ready = guard.ready(READY)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now = clock.now()

-- Claims and renewals look for what is cancelled for so long.
local function look(ms)
  local until_ms = math.max(tonumber(redis.call("HGET", meta, "cancels")) or 0, now + ms)
  redis.call("PEXPIRE", marks, string.format("%.0f", MONTH))
  redis.call("HSET", meta, "cancels", string.format("%.0f", until_ms), "quiet", 0)
end

local is_gone, score = false, receipt ~= "" and redis.call("ZSCORE", unacked, receipt)
if receipt ~= "" and not score then
  return 0
elseif score and tonumber(score) >= bands.APART * bands.SIZE then
  redis.call("ZREM", unacked, receipt)
  redis.call("HDEL", records, receipt)
  redis.call("HINCRBY", stats, "cancelled", 1)
  is_gone = true
elseif score then
  redis.call("HDEL", marks, "")
  local is_new = redis.call("HSET", marks, "!" .. receipt, string.format("%.0f", now)) == 1
  look(limits.HOUR_MS)
  if is_new then -- said again, it would free the id of what was put since
    redis.call("ZREM", ids, id)
  end
  return 1
end

for step = 1, body ~= "" and not is_gone and steps or 0 do
  local key = KEYS[READY + step - 1]
  for i = 0, math.min(ready[step], limit) - 1 do
    local at = i % 2 == 0 and -1 - i / 2 or (i - 1) / 2
    if redis.call("LINDEX", key, at) == body then
      local removed = redis.pcall("LREM", key, at < 0 and -1 or 1, body)
      if type(removed) == "table" then -- no probe asks for this command
        return redis.error_reply(removed.err)
      end
      is_gone = true
      redis.call("HINCRBY", stats, "cancelled", 1)
      break
    end
  end
  if is_gone then
    break
  end
end
if body == "" and not is_gone then
  local _, state = tracking.newest(tracked, 6, 9, clock.us)
  is_gone = state == "r"
  if is_gone then
    cancelled.add(marks, tracked, now)
    look(MONTH)
  end
end
if not is_gone then
  return 0
end
redis.call("ZREM", ids, id)
redis.call("UNLINK", KEYS[10])
if body == "" or tracking.of(body) then -- else the id may be put again, untracked
  tracking.write(6, { tracked, tracking.text("x", clock.us) }, clock.us)
end
return 1
