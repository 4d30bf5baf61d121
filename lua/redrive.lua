-- redrive: dead letters back to ready, with their deliveries, their time to live and their results forgotten.
--
-- Named ones, or the oldest first up to an id; bounded by `limit` and `max_bytes` a call. What cannot be decoded
-- stays where it is. Whose results these are is in the messages: a first call looks, and answers them, a second one
-- names them. Begins with a growing command, so a server at full memory refuses it whole.
--
-- KEYS
--   dead             stream
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   ready            list    * step
--   result           string  * item   of the message in this dead letter
-- ARGV
--   look             int     1: move nothing, answer what would be moved
--   limit            int     entries looked at, 1 to 1000
--   max_bytes        int     bytes
--   after            text    stream id: only what died later; "" for all
--   until            text    stream id: only what died no later; "" for all
--   reason           text    only those that died of this; "" for all
--   id               text    * item    these and no others; none: by after and until
-- RETURNS
--   entries redriven; entries looked at; the stream id of the last one looked at; entries to redrive, if it only looks,
--   two values each: stream id, message
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local dead = require("lib.dead")
local guard = require("lib.guard")
local limits = require("lib.limits")
local message = require("lib.message")
local wake = require("lib.wake")

local letters, tokens, meta, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 7
local only_looks = args.int("look", 0, 1) == 1
local limit, max_bytes = args.int("limit", 1, 1000), args.int("max_bytes", 1, limits.MOST_BYTES)
local after, last, reason = args.text("after", 41), args.text("until", 41), args.text("reason", 64)
local items = args.items("id", 1, 1000)
local steps = args.keys(READY - 1 + items, 1, 10)
guard.stream(letters); guard.list(tokens); guard.hash(meta); guard.hash(stats)
for step = 1, steps do
  guard.list(KEYS[READY + step - 1])
end
for i = 1, (args.fault or guard.fault) and 0 or items do -- an empty range: only the id is read
  local id = ARGV[args.at + i]
  if redis.pcall("XRANGE", letters, id, "0-0", "COUNT", 1).err then
    args.refuse("id", id, "the id of a dead letter")
  end
end
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local redriven, bytes, seen, from, out, us, notes = 0, 0, 0, after, {}, nil, nil
local function look(entry, result)
  local letter = dead.fields(entry)
  seen, from = seen + 1, entry[1]
  local is_wanted = message.sound(letter.message) and (reason == "" or letter.reason == reason)
  if is_wanted and only_looks then
    out[#out + 1], out[#out + 2] = entry[1], letter.message
  elseif is_wanted then
    local step = math.min(math.max(tonumber(letter.step) or 1, 1), steps)
    redis.call("LPUSH", KEYS[READY + step - 1], message.with(letter.message, 0, 0, 0))
    redis.call("XDEL", letters, entry[1])
    if string.byte(letter.message, 3) == 120 then -- "x-...
      local tracking = require("lib.tracking")
      us = us or tracking.now()
      notes = tracking.note(notes, letter.message, "r", us)
    end
    if result then
      redis.call("UNLINK", result)
    end
    redriven = redriven + 1
  end
  bytes = bytes + #letter.message
end

-- One at a time: the size of an entry is unknown until it is read.
for i = 1, items > 0 and items or limit do
  if bytes >= max_bytes then
    break
  end
  local low, high = ARGV[args.at + i], ARGV[args.at + i]
  if items == 0 then
    low, high = from == "" and "-" or "(" .. from, last == "" and "+" or last
  end
  local entry = redis.pcall("XRANGE", letters, low, high, "COUNT", 1)
  if entry.err then -- `after` or `until`, before anything was written
    return redis.error_reply("BADARG after or until: " .. low .. " or " .. high .. " is no id of a dead letter")
  elseif entry[1] then
    look(entry[1], items > 0 and KEYS[READY + steps + i - 1])
  elseif items == 0 then
    break
  end
end
if redriven > 0 then
  redis.call("HINCRBY", stats, "redriven", redriven)
  if notes then
    local tracking = require("lib.tracking")
    tracking.write(5, notes, us)
  end
  wake.one(tokens, redis.call("HGET", meta, "paused") == "1")
end
return { redriven, seen, from, out }
