-- release: give messages back unfinished: to ready now, at the front or the back, or to delayed for a while.
--
-- A counted release is a delivery that may have started; one that is not counted leaves the message as it was before
-- it was claimed. One that was cancelled while it was held is gone for good instead. Begins with a freeing command, so
-- it works at full memory. Stops once `max_bytes` were moved.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   cancelled        hash    id, or ! and a receipt -> when it was cancelled (ms)
--   ready            list    * step
-- ARGV
--   delay_ms         int     ms from now; 0: ready now
--   front            int     1: next to be claimed, 0: last
--   counted          int     1: this delivery counts
--   max_bytes        int     bytes
--   receipt          text    * item    1 to 1000
--   id               text    * item    its name while it is delayed
-- RETURNS
--   a verdict per item: 1 released, 0 not live, 2 not done, call again
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

local unacked, records, delayed, delayed_records = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local tokens, meta, stats, READY = KEYS[5], KEYS[6], KEYS[7], 11
local LONGEST = limits.LAST_MS
local steps = args.keys(READY - 1, 1, 10)
local delay, front, counted = args.int("delay_ms", 0, LONGEST), args.int("front", 0, 1), args.int("counted", 0, 1)
local max_bytes = args.int("max_bytes", 1, limits.MOST_BYTES)
local items = args.items("receipt and id", 2, 1000)
guard.zset(unacked); guard.hash(records); guard.zset(delayed); guard.hash(delayed_records)
guard.list(tokens); guard.hash(meta); guard.hash(stats); guard.ready(READY)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, first = clock.now(), args.at
local due = math.min(now + delay, LONGEST)
local settings = redis.call("HMGET", meta, "paused", "timer_at", "cancels")
local verdicts, bytes, released, dropped, notes = {}, 0, 0, 0, nil
local cancels = (tonumber(settings[3]) or 0) > now
local marks = cancels and redis.pcall("HLEN", KEYS[10])
-- At the front the last one pushed is the next one out: go backwards, and they keep the order they are named in.
local from, to, by = 1, items, 1
if front == 1 then
  from, to, by = items, 1, -1
end
for i = from, to, by do
  local receipt, id = ARGV[first + 2 * i - 1], ARGV[first + 2 * i]
  verdicts[i] = 2
  if bytes < max_bytes then
    local held = receipts.remove(unacked, records, receipt)
    local deliveries, step, _, body = record.split(held or "")
    verdicts[i] = held and 1 or 0
    if held and not deliveries then -- no record of ours: never lost; the claim that meets it dead-letters it
      deliveries, step, body = 1, 1, held
    end
    local state, name = "r", nil
    if held and cancels and redis.pcall("HDEL", KEYS[10], "!" .. receipt) == 1 then
      bytes, dropped, state = bytes + #held, dropped + 1, "x"
    elseif held then
      deliveries, bytes, released = deliveries - 1 + counted, bytes + #held, released + 1
      step = math.min(math.max(step, 1), steps)
      if delay > 0 then
        if id == "" or redis.call("ZSCORE", delayed, id) then
          id = receipt
        end
        redis.call("HSET", delayed_records, id, record.header(deliveries, step, now) .. body)
        redis.call("ZADD", delayed, bands.score(step, due), id)
        state, name = "w", id
      else
        redis.call(front == 1 and "RPUSH" or "LPUSH", KEYS[READY + step - 1], message.counted(body, deliveries))
      end
    end
    if held and string.byte(body, 3) == 120 then -- "x-...
      local tracking = require("lib.tracking")
      notes = tracking.note(notes, body, state, clock.us, name)
    end
  end
end
if notes then
  local tracking = require("lib.tracking")
  tracking.write(8, notes, clock.us)
end
if dropped > 0 then
  redis.call("HINCRBY", stats, "cancelled", dropped)
  if marks == dropped then
    redis.call("HSET", meta, "cancels", 0)
  end
end
if released > 0 then
  redis.call("HINCRBY", stats, "released", released)
  local timer_at = tonumber(settings[2]) or 0
  if delay == 0 or timer_at <= now or due < timer_at then
    wake.one(tokens, settings[1] == "1")
  end
end
return verdicts
