-- cancel: delayed messages by id. They are gone for good, and so is what is remembered under their ids.
--
-- Begins with a freeing command, so it works at full memory.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   ids              zset    id -> until when it is known (ms)
--   meta             hash
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   result           string  * item
-- ARGV
--   id               text    * item    1 to 1000
-- RETURNS
--   positions of the ids that are not delayed
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")
local record = require("lib.record")

local delayed, delayed_records, ids, meta, stats, RESULT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 8
local items = args.items("id", 1, 1000)
args.keys(RESULT - 1, items, items)
guard.zset(delayed); guard.hash(delayed_records); guard.zset(ids); guard.hash(meta); guard.hash(stats)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local missing, us, notes = {}, nil, nil
for i = 1, items do
  local held = redis.call("HGET", delayed_records, ARGV[i]) or ""
  local was = redis.call("ZREM", delayed, ARGV[i]) + redis.call("HDEL", delayed_records, ARGV[i])
  local _, _, _, body = record.split(held)
  if body and string.byte(body, 3) == 120 then -- "x-...
    local tracking = require("lib.tracking")
    us = us or tracking.now()
    notes = tracking.note(notes, body, "x", us)
  end
  if was == 0 then
    missing[#missing + 1] = i
  else
    redis.call("ZREM", ids, ARGV[i])
    redis.call("UNLINK", KEYS[RESULT + i - 1])
  end
end
if #missing < items then
  if redis.call("ZCARD", delayed) == 0 then
    redis.call("HDEL", meta, "timer_at", "timer_by")
  end
  redis.call("HINCRBY", stats, "cancelled", items - #missing)
  if notes then
    local tracking = require("lib.tracking")
    tracking.write(6, notes, us)
  end
end
return missing
