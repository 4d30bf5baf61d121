-- hand_back: our delayed and unacked messages into the lists that stock workers read, for a rollback.
--
-- Delayed ones to the back, with whatever eta they carry; leased ones to the front, counted as delivered (and spared,
-- if their consumer held others), and their holders' receipts are live no more. Either way the oldest is the first to
-- be handed out again. Bounded by `limit` and `max_bytes`. Begins with a freeing command, so it works at full memory.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   ready            list    * step
-- ARGV
--   limit            int     messages, 1 to 1000
--   max_bytes        int     bytes
--   unacked          int     1: these
--   delayed          int     1: these
-- RETURNS
--   delayed handed back; unacked handed back; messages left of what was asked for
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local guard = require("lib.guard")
local limits = require("lib.limits")
local message = require("lib.message")
local receipts = require("lib.receipts")
local record = require("lib.record")

local unacked, records, delayed, delayed_records = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stats, READY = KEYS[5], 8
local steps = args.keys(READY - 1, 1, 10)
local limit, max_bytes = args.int("limit", 1, 1000), args.int("max_bytes", 1, limits.MOST_BYTES)
local with_unacked, with_delayed = args.int("unacked", 0, 1) == 1, args.int("delayed", 0, 1) == 1
guard.zset(unacked); guard.zset(delayed); guard.hash(records)
guard.hash(delayed_records); guard.hash(stats); guard.ready(READY)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local bytes, us, notes = 0, nil, nil
local function move(index, held_in, range, push)
  local names, moved = redis.call(range, index, 0, limit - 1), 0
  for i = 1, #names do
    if bytes >= max_bytes then
      break
    end
    local score = index == unacked and redis.call("ZSCORE", index, names[i])
    local held = receipts.remove(index, held_in, names[i])
    if held then
      local deliveries, step, _, body = record.split(held)
      if deliveries then
        local _, _, _, spared = message.head(body)
        body = message.counted(body, deliveries, score and not bands.alone(score) and spared + 1 or spared)
      end
      body = body or held
      if string.byte(body, 3) == 120 then -- "x-...
        local tracking = require("lib.tracking")
        us = us or tracking.now()
        notes = tracking.note(notes, body, "r", us)
      end
      redis.call(push, KEYS[READY + math.min(math.max(step or 1, 1), steps) - 1], body)
      moved, bytes = moved + 1, bytes + #held
    end
  end
  limit = limit - moved
  return moved
end

local from_unacked = with_unacked and move(unacked, records, "ZREVRANGE", "RPUSH") or 0
local from_delayed = with_delayed and limit > 0 and move(delayed, delayed_records, "ZRANGE", "LPUSH") or 0
if from_unacked + from_delayed > 0 then
  redis.call("HINCRBY", stats, "handed_back", from_unacked + from_delayed)
  if notes then
    local tracking = require("lib.tracking")
    tracking.write(6, notes, us)
  end
end
return {
  from_delayed, from_unacked,
  (with_unacked and redis.call("ZCARD", unacked) or 0) + (with_delayed and redis.call("ZCARD", delayed) or 0),
}
