-- attend: a consumer of a queue announces itself for a while, or leaves.
--
-- When the last one leaves, what is published after it is not delayed for a consumer that was "seen" (see publish), and
-- delayed messages go to the back of ready, where stock workers and autoscalers look: those that carry an eta of
-- Celery's, by which the next worker delays them again, and those that are due. Others stay: nothing but their place
-- here delays them. Bounded by `limit` and `max_bytes`; to be called again with what was kept added to `skip` until
-- nothing is left. Begins with a freeing command, so it works at full memory.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   ready            list    * step
-- ARGV
--   consumer         text    its name, without blanks
--   alive_ms         int     ms for which it counts as there, an hour at most; 0: it leaves
--   skip             int     delayed messages that were looked at and kept
--   limit            int     messages to look at, 1 to 1000
--   max_bytes        int     bytes
-- RETURNS
--   consumers that are there; messages put into ready; messages kept; messages left to look at; while a consumer is
--   there, the record of the queue's partitions, "" if there is none
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local guard = require("lib.guard")
local limits = require("lib.limits")
local message = require("lib.message")
local receipts = require("lib.receipts")
local record = require("lib.record")
local wake = require("lib.wake")

local delayed, delayed_records, tokens, meta, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 8
local HOUR = limits.HOUR_MS
local steps = args.keys(READY - 1, 1, 10)
local consumer, alive = args.text("consumer", 96), args.int("alive_ms", 0, HOUR)
local skip, limit = args.int("skip", 0, limits.MOST_ENTRIES), args.int("limit", 1, 1000)
local max_bytes = args.int("max_bytes", 1, limits.MOST_BYTES)
if not string.find(consumer, "^%S+$") then
  args.refuse("consumer", consumer, "a name without blanks")
end
local size = guard.zset(delayed)
guard.hash(delayed_records); guard.list(tokens)
guard.hash(meta); guard.hash(stats); guard.ready(READY)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, there = clock.now(), {}
local set = redis.call("HMGET", meta, "consumers", "paused", "partitions")
for name, deadline in string.gmatch(set[1] or "", "(%S+) (%d+)") do
  local left = deadline - now
  if name ~= consumer and left > 0 and left <= HOUR then -- more is of a clock that was set back
    there[#there + 1] = name .. " " .. deadline
  end
end
if alive > 0 then
  there[#there + 1] = consumer .. " " .. string.format("%.0f", now + alive)
end
if #there > 0 then
  redis.call("HDEL", meta, "")
  redis.call("HSET", meta, "consumers", table.concat(there, " "))
  return { #there, 0, 0, 0, set[3] or "" }
end

redis.call("HDEL", meta, "consumers", "seen")
local found, moved, bytes, looked = redis.call("ZRANGE", delayed, skip, skip + limit - 1, "WITHSCORES"), 0, 0, 0
local notes
while looked < #found / 2 and bytes < max_bytes do
  local name, due = found[2 * looked + 1], found[2 * looked + 2] % bands.SIZE
  local held = redis.call("HGET", delayed_records, name) or ""
  local deliveries, step, _, body = record.split(held)
  looked, bytes = looked + 1, bytes + #held
  if deliveries and (due <= now or string.find(body, '"eta": ?"')) then
    receipts.remove(delayed, delayed_records, name)
    redis.call("LPUSH", KEYS[READY + math.min(math.max(step, 1), steps) - 1], message.counted(body, deliveries))
    moved = moved + 1
    if string.byte(body, 3) == 120 then -- "x-...
      local tracking = require("lib.tracking")
      notes = tracking.note(notes, body, "r", clock.us)
    end
  end
end
if moved > 0 then
  redis.call("HINCRBY", stats, "handed_back", moved)
  if notes then
    local tracking = require("lib.tracking")
    tracking.write(6, notes, clock.us)
  end
  wake.one(tokens, set[2] == "1")
end
return { 0, moved, looked - moved, math.max(0, size - skip - looked) }
