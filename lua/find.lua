-- find: where is one message? Writes nothing.
--
-- A message is found by its id where the id leads to it: what is delayed, and what its record (see lib/tracking) says
-- if it is tracked, provided that it is there. Else its id is searched for among unacked, ready and dead messages: so
-- many of each, and so many bytes. A text search cannot know whether what it found is the id of a message or stands
-- elsewhere in it: the caller reads that. All that were found are answered.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   dead             stream
--   track0           hash    id -> where a tracked message is
--   track1           hash
--   cancelled        hash    id, or ! and a receipt -> when it was cancelled (ms)
--   put              string  when it was put, if it is tracked
--   result           string
--   ready            list    * step
-- ARGV
--   tracked          text    the id as its records have it
--   id               text
--   written          text    the id as JSON has it, without quotes
--   limit            int     messages to search in each part, 0 to 1000; of ready half of them at either end of a list
--   max_bytes        int     bytes to search in each part
-- RETURNS
--   now ms; its newest record, or ""; its result, or ""; 1 if it is to be dropped by a claim; messages that were not
--   searched: unacked, ready, dead; then eight values for each that was found: part, 1 if it is the one for certain,
--   receipt or stream id or name ("" when ready), deadline or due ms (else -1), deliveries, step, what else is known
--   (as in peek; unacked: also a blank and 1 if its holder is asked to stop, 2 if it waits to go alone), message
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local found = require("lib.found")
local guard = require("lib.guard")
local limits = require("lib.limits")
local tracking = require("lib.tracking")

local unacked, records, delayed, delayed_records, letters, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 11
local steps = args.keys(READY - 1, 1, 10)
local tracked, id = args.text("tracked", limits.LARGEST), args.text("id", limits.LARGEST)
local written = args.text("written", limits.LARGEST)
local limit, max_bytes = args.int("limit", 0, 1000), args.int("max_bytes", 1, limits.MOST_BYTES)
local left = { guard.zset(unacked), 0, guard.stream(letters) } -- what was not searched: unacked, ready, dead
local ready = guard.ready(READY)
guard.hash(records); guard.zset(delayed); guard.hash(delayed_records)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now = clock.now()
local text, state = tracking.newest(tracked, 6, 9, clock.us)
local name = string.match(text, "^%l %d+ ([^\n]*)") or ""
local is_dropped = state ~= "r" and redis.pcall("HEXISTS", KEYS[8], tracked) == 1 -- else it was put again
for i = 1, #ready do
  left[2] = left[2] + ready[i]
end

local later = state == "w" and name ~= "" and name or id
local due = redis.call("ZSCORE", delayed, later)
local is_cancelling = false -- then its id may have been put again
if due then
  found.delayed(later, due, redis.call("HGET", delayed_records, later) or "", later == id)
elseif state == "h" then
  local score = redis.call("ZSCORE", unacked, name)
  local held = score and redis.call("HGET", records, name)
  if held then
    is_cancelling = found.held(name, score, held, true)
  end
elseif state == "d" then
  local entry = redis.pcall("XRANGE", letters, name, name, "COUNT", 1)
  if entry[1] then
    found.letter(entry[1], true)
  end
end
if (#found.values == 0 or is_cancelling) and limit > 0 then
  local searching = require("lib.searching")
  searching.search(id, written, limit, max_bytes, ready, READY, steps, left)
end

local result = redis.pcall("GET", KEYS[10])
return {
  now, text, type(result) == "string" and result or "", is_dropped and 1 or 0, left[1], left[2], left[3],
  found.values,
}
