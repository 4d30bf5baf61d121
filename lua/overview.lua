-- overview: many queues in numbers, in one call that is cheap enough for a page or a scrape. Writes nothing.
--
-- An idle queue costs two commands, and a part of one that finds several idle queues which stand together; one with
-- messages in every state costs eleven. Of a queue with a key of another type the fault is answered; the others are
-- answered as ever. Of the bodies of messages it looks at `max_bytes` and one more message, so that queues with large
-- ones cost no more.
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
--   spread           text    a 1 for each queue that may have partitions, a 0 for each other
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

local TAIL = 512 -- bytes: the properties stand at the end of a message
local MOST = 8 -- queues in which one command looks for messages
local steps, spread = args.int("steps", 1, 10), args.text("spread", 1000)
local max_bytes = args.int("max_bytes", 1, limits.MOST_BYTES)
local HASHES, HELD = 2, 3 + steps -- keys of one queue: those of all queues that are hashes come first
local KEYS, width = KEYS, HASHES + HELD
local queues = #KEYS / width
if queues % 1 ~= 0 or queues < 1 or queues > 1000 then
  args.refuse("KEYS", #KEYS, "a multiple of " .. width .. ", of 1000 queues at most")
end
if args.done() then
  return redis.error_reply(args.fault)
end

local now, bytes = clock.now(), 0
local call, find, match, byte, concat = redis.call, string.find, string.match, string.byte, table.concat
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

-- How many keys with messages these queues have; more than there can be, where the user may not run that.
local function there(first, last)
  local before = HASHES * queues
  local many = redis.pcall("EXISTS", unpack(KEYS, before + (first - 1) * HELD + 1, before + last * HELD))
  return type(many) == "number" and many or 1000 * (last - first + 1)
end

-- How many each of these queues has, of `many` that they have together: what one half has is asked, the rest is known.
local present = {}
local function split(first, last, many)
  if first == last or many == 0 then
    for q = first, last do
      present[q] = many
    end
  else
    local middle = math.floor((first + last) / 2)
    local before = there(first, middle)
    split(first, middle, before)
    split(middle + 1, last, many - before)
  end
end

-- Read one queue. Once all keys are met that are there, no other is looked for.
local function read(q)
  local left = present[q]
  local meta, stats = KEYS[HASHES * q - 1], call("HGETALL", KEYS[HASHES * q])
  local paused = call("HGET", meta, "paused") == "1" and "1" or "0"
  local record = byte(spread, q) == 49 and call("HGET", meta, "partitions")
  if record then
    stats[#stats + 1], stats[#stats + 2] = "partitions", record
  end
  stats = concat(stats, "\n")
  if left == 0 then
    return paused == "1" and "1\n" .. stats or stats
  end
  local at = HASHES * queues + (q - 1) * HELD
  local unacked, delayed, put = KEYS[at + 1], KEYS[at + 2], nil
  local held, expired, later, overdue_later, letters, next_due = 0, 0, 0, 0, 0, "-1"
  local out = { paused }
  for step = 1, steps do
    local key = KEYS[at + 3 + step]
    local size = left > 0 and call("LLEN", key) or 0
    if size > 0 then
      left = left - 1
      put = put or put_at(key)
    end
    out[1 + step] = word(size)
    if step == 1 and left > 0 then -- mostly nothing is in another step, and these are met before that is looked up
      held, later, letters = call("ZCARD", unacked), call("ZCARD", delayed), call("XLEN", KEYS[at + 3])
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

-- One command looks at one queue, and at twice as many each time that it finds nothing.
local from, at_once = 1, 1
while from <= queues do
  local last = math.min(from + at_once - 1, queues)
  local many = there(from, last)
  split(from, last, many)
  from, at_once = last + 1, many == 0 and math.min(2 * at_once, MOST) or 1
end

local answer, next_queue = { now }, 1
local function read_on()
  while next_queue <= queues do
    answer[next_queue + 1] = read(next_queue)
    next_queue = next_queue + 1
  end
end

while next_queue <= queues do
  local is_sound, failure = pcall(read_on)
  if not is_sound then
    local q, at = next_queue, HASHES * queues + (next_queue - 1) * HELD
    guard.fault = false
    guard.hash(KEYS[HASHES * q - 1]); guard.hash(KEYS[HASHES * q])
    guard.zset(KEYS[at + 1]); guard.zset(KEYS[at + 2]); guard.stream(KEYS[at + 3])
    for step = 1, steps do
      guard.list(KEYS[at + 3 + step])
    end
    local fault = guard.fault or tostring(type(failure) == "table" and failure.err or failure)
    if queues == 1 then
      return redis.error_reply(fault)
    end
    answer[q + 1], next_queue = "!" .. fault, q + 1
  end
end
return answer
