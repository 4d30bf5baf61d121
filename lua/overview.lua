-- overview: many queues in numbers, in one call that is cheap enough for a page or a scrape. Writes nothing.
--
-- What is empty costs one command for all of it: an idle queue three commands, one with messages in every state eleven.
-- Of a queue with a key of another type the fault is answered; the others are answered as ever. Of the bodies of
-- messages it looks at `max_bytes` and one more message, so that queues with large ones cost no more.
--
-- KEYS
--   meta             hash    * queue
--   stats            hash    * queue
--   unacked          zset    * queue   receipt -> deadline (bands)
--   delayed          zset    * queue   id -> due (bands)
--   dead             stream  * queue
--   ready            list    * queue * step
-- ARGV
--   steps            int     priority steps, 1 to 10
--   max_bytes        int     bytes of ready messages that are looked at, to learn how old the oldest is
-- RETURNS
--   now, ms; a text for each queue: names and values of stats, a line each, and of `partitions` the record, if it has
--   one. Unless it holds nothing and is not paused, there is a line of numbers before: 1 if it is paused or 0; then,
--   unless it holds nothing, ready, one number a step; unacked; of these past their deadline; delayed; of these due;
--   dead; next due ms or -1; when the next ready message was put, s, or -1 where that is not known. Or "!" and why it
--   cannot be read
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local due = require("lib.due")
local guard = require("lib.guard")
local limits = require("lib.limits")

local FIXED, TAIL = 5, 512 -- bytes: the properties stand at the end of a message
local steps, max_bytes = args.int("steps", 1, 10), args.int("max_bytes", 1, limits.MOST_BYTES)
local width = FIXED + steps
local queues = #KEYS / width
if queues % 1 ~= 0 or queues < 1 or queues > 1000 then
  args.refuse("KEYS", #KEYS, "a multiple of " .. width .. ", of 1000 queues at most")
end
if args.done() then
  return redis.error_reply(args.fault)
end

local now, bytes = clock.now(), 0
local call, find, match, concat = redis.call, string.find, string.match, table.concat
-- What many queues need is text: a number that becomes an argument or a part of the answer costs half a command.
local words = {}
local function word(number)
  local text = words[number]
  if not text then
    text = string.format("%.0f", number)
    words[number] = text
  end
  return text
end
local SOON, FIRST_STEP = string.format("%.0f", now + 1), string.format("%.0f", bands.SIZE - 1)

-- When the message that goes out next was put, as its producer's clock has it.
local function put_at(ready)
  if bytes >= max_bytes then
    return "-1"
  end
  local message, at = call("LINDEX", ready, "-1") or "", nil
  bytes = bytes + #message
  local from = #message > TAIL and #message - TAIL or 1
  repeat -- the last one is that of the properties
    local _, last = find(message, '"timestamp":', from, true)
    at, from = last or at, (last or 0) + 1
  until not last
  return at and match(message, "^ ?(%d+)", at + 1) or "-1"
end

-- Is all of an index in the first step and before its time? Mostly it is.
local function is_quiet(key, size)
  return call("ZCOUNT", key, SOON, FIRST_STEP) == size
end

-- How many are past their time, in any of the first `steps` steps.
local function overdue(key, most)
  local many = due.count(key, 1, now)
  for step = 2, bands.past_first_step(key) and most or 0 do
    many = many + due.count(key, step, now)
  end
  return many
end

-- How many of these keys there are; more than there can be, where the user may not run that.
local function there(from, to)
  local many = redis.pcall("EXISTS", unpack(KEYS, from, to))
  return type(many) == "number" and many or 1000
end

-- What is set of a queue: is it paused, and its partitions. A monitor of older rules may not run HMGET.
local function set_of(meta)
  local set = redis.pcall("HMGET", meta, "paused", "partitions")
  return set.err and { call("HGET", meta, "paused"), call("HGET", meta, "partitions") } or set
end

-- Read the queue whose keys begin behind `at`. Once all keys are met that are there, no other is looked for.
local function read(at)
  local left = there(at + 3, at + width)
  local meta, stats = set_of(KEYS[at + 1]), call("HGETALL", KEYS[at + 2])
  local paused = meta[1] == "1" and "1" or "0"
  if meta[2] then
    stats[#stats + 1], stats[#stats + 2] = "partitions", meta[2]
  end
  stats = concat(stats, "\n")
  if left == 0 then
    return paused == "1" and "1\n" .. stats or stats
  end
  local unacked, delayed, put = KEYS[at + 3], KEYS[at + 4], nil
  local held, expired, later, overdue_later, letters, next_due = 0, 0, 0, 0, 0, "-1"
  local out = { paused }
  for step = 1, steps do
    local key = KEYS[at + FIXED + step]
    local size = left > 0 and call("LLEN", key) or 0
    if size > 0 then
      left = left - 1
      put = put or put_at(key)
    end
    out[1 + step] = word(size)
    if step == 1 and left > 0 then -- mostly nothing is in another step, and these are met before that is looked up
      held, later, letters = call("ZCARD", unacked), call("ZCARD", delayed), call("XLEN", KEYS[at + 5])
      left = left - (held > 0 and 1 or 0) - (later > 0 and 1 or 0) - (letters > 0 and 1 or 0)
    end
  end
  if held > 0 and not is_quiet(unacked, held) then
    expired = overdue(unacked, 20)
  end
  if later > 0 and is_quiet(delayed, later) then
    next_due = call("ZRANGE", delayed, "0", "0", "WITHSCORES")[2]
  elseif later > 0 then
    overdue_later, next_due = overdue(delayed, 10), due.earliest(delayed, 10)
  end
  local n = 1 + steps
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = word(held), word(expired), word(later), word(overdue_later)
  out[n + 5], out[n + 6], out[n + 7] = word(letters), next_due, put or "-1"
  return concat(out, " ") .. "\n" .. stats
end

local answer = { now }
for q = 1, queues do
  local at = (q - 1) * width
  local is_sound, found = pcall(read, at)
  if not is_sound then
    guard.fault = false
    guard.hash(KEYS[at + 1]); guard.hash(KEYS[at + 2])
    guard.zset(KEYS[at + 3]); guard.zset(KEYS[at + 4]); guard.stream(KEYS[at + 5])
    for i = at + FIXED + 1, at + width do
      guard.list(KEYS[i])
    end
    local fault = guard.fault or tostring(type(found) == "table" and found.err or found)
    if queues == 1 then
      return redis.error_reply(fault)
    end
    found = "!" .. fault
  end
  answer[q + 1] = found
end
return answer
