-- peek: look at messages without touching them. Writes nothing.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   dead             stream
--   ready            list    * step
-- ARGV
--   part             text    ready, delayed, unacked or dead
--   after            text    dead: only what died later than this stream id; otherwise ""
--   offset           int     entries to pass over, in the order they would be handed out; dead: 0
--   limit            int     entries, 1 to 1000
--   max_bytes        int     bytes in all; stops behind it
--   id               text    * item    delayed or unacked: of these only, 0 to 1000, in their order
-- RETURNS
--   now ms; entries, six values each: id, receipt or stream id ("" when ready), deadline or due ms (dead: -1),
--   deliveries, step, what else is known (unacked: claimed ms; dead: reason, a line feed, detail), message
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

local unacked, records, delayed, delayed_records, letters, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 6
local steps = args.keys(READY - 1, 1, 10)
local part, after = args.text("part", 16), args.text("after", 41)
local offset, limit = args.int("offset", 0, limits.MOST), args.int("limit", 1, 1000)
local max_bytes = args.int("max_bytes", 1, limits.MOST_BYTES)
local items = args.items("id", 1, 1000)
if items > 0 and part ~= "delayed" and part ~= "unacked" then
  args.refuse("id", items, "for the part " .. part)
end
local ready = guard.ready(READY)
guard.zset(unacked); guard.hash(records); guard.zset(delayed); guard.hash(delayed_records); guard.stream(letters)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local out, bytes = {}, 0
local function add(name, ms, deliveries, step, about, body)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5], out[n + 6] = name, ms, deliveries, step, about, body
  bytes = bytes + #body
  return bytes < max_bytes and #out < limit * 6
end

-- Names and scores of those asked for, as ZRANGE answers them.
local function named(key)
  local found = {}
  for i = 1, items do
    local score = redis.call("ZSCORE", key, ARGV[args.at + i])
    if score then
      found[#found + 1], found[#found + 2] = ARGV[args.at + i], score
    end
  end
  return found
end

local function scored(key, held_in)
  local found = items > 0 and named(key) or redis.call("ZRANGE", key, offset, offset + limit - 1, "WITHSCORES")
  for i = 1, #found, 2 do
    local held = redis.call("HGET", held_in, found[i]) or ""
    local deliveries, step, ms, body = record.split(held)
    if not add(found[i], found[i + 1] % bands.SIZE, deliveries or 0, step or 1, tostring(ms and
      string.format("%.0f", ms) or ""), body or held) then
      return
    end
  end
end

if part == "ready" then
  for step = 1, steps do
    for at = offset, ready[step] - 1 do
      local body = redis.call("LINDEX", KEYS[READY + step - 1], -1 - at)
      if not add("", -1, (message.head(body)), step, "", body) then
        return { clock.now(), out }
      end
    end
    offset = math.max(0, offset - ready[step])
  end
elseif part == "delayed" then
  scored(delayed, delayed_records)
elseif part == "unacked" then
  scored(unacked, records)
elseif part == "dead" then
  local from = after == "" and "-" or "(" .. after
  for _ = 1, limit do
    local entry = redis.pcall("XRANGE", letters, from, "+", "COUNT", 1)
    if entry.err then
      return redis.error_reply("BADARG after: " .. after .. " is no id of a dead letter")
    elseif not entry[1] then
      break
    end
    local letter = dead.fields(entry[1])
    from = "(" .. entry[1][1]
    if not add(entry[1][1], -1, tonumber(letter.deliveries) or 0, tonumber(letter.step) or 1,
      letter.reason .. "\n" .. letter.detail, letter.message) then
      break
    end
  end
else
  return redis.error_reply("BADARG part: " .. part .. " is not ready, delayed, unacked or dead")
end
return { clock.now(), out }
