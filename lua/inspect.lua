-- inspect: what a queue holds, in numbers. Writes nothing.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash
--   delayed          zset    id -> due (bands)
--   delayed_records  hash
--   dead             stream
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   ready            list    * step
-- RETURNS
--   now ms; ready, one number a step; unacked; of these past their deadline; delayed; of these due; dead; next due ms
--   or -1; earliest deadline ms or -1; records without a deadline plus deadlines without a record; the same of
--   delayed; the oldest ready message, or ""; names and values of meta; names and values of stats
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local due = require("lib.due")
local guard = require("lib.guard")

local unacked, records, delayed, delayed_records = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local dead, tokens, meta, stats, READY = KEYS[5], KEYS[6], KEYS[7], KEYS[8], 9
local steps = args.keys(READY - 1, 1, 10)
local ready = guard.ready(READY)
local sizes = {
  guard.zset(unacked), guard.hash(records), guard.zset(delayed), guard.hash(delayed_records), guard.stream(dead),
}
guard.list(tokens); guard.hash(meta); guard.hash(stats)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now = clock.now()
local function overdue(key, size, deepest)
  local n = 0
  for step = 1, size > 0 and deepest or 0 do
    n = n + due.count(key, step, now)
  end
  return n
end

local oldest = ""
for step = 1, steps do
  if oldest == "" and ready[step] > 0 then
    oldest = string.sub(redis.call("LINDEX", KEYS[READY + step - 1], -1), 1, 65536)
  end
end
return {
  now, ready, sizes[1], overdue(unacked, sizes[1], 20), sizes[3], overdue(delayed, sizes[3], 10), sizes[5],
  sizes[3] > 0 and due.earliest(delayed, 10) or -1, sizes[1] > 0 and due.earliest(unacked, 20) or -1,
  math.abs(sizes[1] - sizes[2]), math.abs(sizes[3] - sizes[4]), oldest,
  redis.call("HGETALL", meta), redis.call("HGETALL", stats),
}
