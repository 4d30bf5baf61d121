-- find: where is one message? Writes nothing.
--
-- A message is found by its id where the id leads to it: what is delayed, and what its record (see lib/tracking) says
-- if it is tracked, provided that it is there. Else its id is searched for among unacked, ready and dead messages: so
-- many of each, and so many bytes. A text search cannot know whether what it found is the id of a message or stands
-- elsewhere in it: the caller reads that. The first 10 that were found are answered.
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
local bands = require("lib.bands")
local clock = require("lib.clock")
local dead = require("lib.dead")
local guard = require("lib.guard")
local limits = require("lib.limits")
local message = require("lib.message")
local record = require("lib.record")
local tracking = require("lib.tracking")

local unacked, records, delayed, delayed_records, letters, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 11
local MOST = 10
local steps = args.keys(READY - 1, 1, 10)
local tracked, id = args.text("tracked", limits.LARGEST), args.text("id", limits.LARGEST)
local written = args.text("written", limits.LARGEST)
local limit, max_bytes = args.int("limit", 0, 1000), args.int("max_bytes", 1, limits.MOST_BYTES)
local sizes = { guard.zset(unacked), 0, guard.stream(letters) }
local ready = guard.ready(READY)
guard.hash(records); guard.zset(delayed); guard.hash(delayed_records)
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, found = clock.now(), {}
local text, state = tracking.newest(tracked, 6, 9, clock.us)
local name = string.match(text, "^%l %d+ ([^\n]*)") or ""
local is_dropped = redis.pcall("HEXISTS", KEYS[8], tracked) == 1

local function add(...)
  local n = #found
  for i, value in ipairs({ ... }) do
    found[n + i] = value
  end
end

local function add_held(receipt, score, held, is_sure)
  local deliveries, step, ms, body = record.split(held)
  local about = ms and string.format("%.0f", ms) or ""
  if tonumber(score) >= bands.APART * bands.SIZE then
    about = about .. " 2"
  elseif redis.pcall("HEXISTS", KEYS[8], "!" .. receipt) == 1 then
    about = about .. " 1"
  end
  add("unacked", is_sure, receipt, math.floor(score % bands.SIZE), deliveries or 0, step or 1, about, body or held)
end

local function add_letter(entry, is_sure)
  local letter = dead.fields(entry)
  add("dead", is_sure, entry[1], -1, tonumber(letter.deliveries) or 0, tonumber(letter.step) or 1,
    letter.reason .. "\n" .. letter.detail, letter.message)
end

-- Where its id leads.
local later = state == "w" and name ~= "" and name or id
local due = redis.call("ZSCORE", delayed, later)
if due then
  local held = redis.call("HGET", delayed_records, later) or ""
  local deliveries, step, ms, body = record.split(held)
  add("delayed", later == id and 1 or 0, later, due % bands.SIZE, deliveries or 0, step or 1,
    ms and string.format("%.0f", ms) or "", body or held)
elseif state == "h" then
  local score = redis.call("ZSCORE", unacked, name)
  local held = score and redis.call("HGET", records, name)
  if held then
    add_held(name, score, held, 1)
  end
elseif state == "d" then
  local entry = redis.pcall("XRANGE", letters, name, name, "COUNT", 1)
  if entry[1] then
    add_letter(entry[1], 1)
  end
end

-- Where it may be.
local bytes
local function has(body)
  bytes = bytes + #body
  return string.find(body, written, 1, true) or string.find(body, id, 1, true)
end
local function goes_on()
  return bytes < max_bytes and #found < 8 * MOST
end

local left = { sizes[1], 0, sizes[3] }
for i = 1, #ready do
  left[2] = left[2] + ready[i]
end
local is_found = #found > 0
bytes = 0
for _, receipt in ipairs(is_found and {} or redis.call("ZRANGE", unacked, 0, limit - 1)) do
  if limit == 0 or not goes_on() then
    break
  end
  local held = redis.call("HGET", records, receipt) or ""
  left[1] = left[1] - 1
  if has(held) then
    add_held(receipt, redis.call("ZSCORE", unacked, receipt), held, 0)
  end
end
bytes = 0
local budget = is_found and 0 or limit
for step = 1, steps do
  local size = ready[step]
  local most = math.min(size, budget)
  for i = 0, most - 1 do
    if not goes_on() then
      break
    end
    -- In turn: the next one out, and the newest.
    local at = i % 2 == 0 and -1 - i / 2 or (i - 1) / 2
    local body = redis.call("LINDEX", KEYS[READY + step - 1], at)
    left[2], budget = left[2] - 1, budget - 1
    if has(body) then
      add("ready", 0, "", -1, (message.head(body)), step, "", body)
    end
  end
end
bytes = 0
local below = "+"
for _ = 1, is_found and 0 or limit do
  local entry = goes_on() and redis.pcall("XREVRANGE", letters, below, "-", "COUNT", 1) or {}
  if entry.err or not entry[1] then
    break
  end
  below, left[3] = "(" .. entry[1][1], left[3] - 1
  if has(dead.fields(entry[1]).message) then
    add_letter(entry[1], 0)
  end
end

local result = redis.pcall("GET", KEYS[10])
return {
  now, text, type(result) == "string" and result or "", is_dropped and 1 or 0, left[1], left[2], left[3], found,
}
