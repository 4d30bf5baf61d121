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
local age = require("lib.age")
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local limits = require("lib.limits")
local present = require("lib.present")

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

local now = clock.now()
local call, byte, concat, format = redis.call, string.byte, table.concat, string.format
-- What many queues need is text: a number that becomes an argument or a part of the answer costs half a command.
local words = setmetatable({}, {
  __index = function(known, number)
    known[number] = format("%.0f", number)
    return known[number]
  end,
})
local SOON, FIRST_STEP = format("%.0f", now + 1), format("%.0f", bands.SIZE - 1)

-- Is all of an index in the first step and before its time? Mostly it is.
local function is_quiet(key, size)
  return call("ZCOUNT", key, SOON, FIRST_STEP) == size
end

-- How many are past their time, in any of the first `most` steps.
local function overdue(key, most)
  local due = require("lib.due")
  local many = due.count(key, 1, now)
  for step = 2, bands.past_first_step(key) and most or 0 do
    many = many + due.count(key, step, now)
  end
  return many
end

-- Read one queue, of whose keys with messages `left` are there: once all are met, no other is looked for.
local out = {} -- for all queues the same: a table that grows costs as much as a command
local function read(q, left)
  local meta, stats = KEYS[HASHES * q - 1], call("HGETALL", KEYS[HASHES * q])
  local paused = call("HGET", meta, "paused") == "1"
  local record = byte(spread, q) == 49 and call("HGET", meta, "partitions")
  if record then
    stats[#stats + 1], stats[#stats + 2] = "partitions", record
  end
  stats = concat(stats, "\n")
  if left == 0 then
    return paused and "1\n" .. stats or stats
  end
  local at = HASHES * queues + (q - 1) * HELD
  local unacked, delayed, put = KEYS[at + 1], KEYS[at + 2], nil
  local held, expired, later, overdue_later, letters, next_due = 0, 0, 0, 0, 0, "-1"
  out[1] = paused and "1" or "0"
  for step = 1, steps do
    local size = 0
    if left > 0 then
      local key = KEYS[at + 3 + step]
      size = call("LLEN", key)
      if size > 0 then
        left, put = left - 1, put or age.put_at(key, max_bytes)
      end
      if step == 1 and left > 0 then -- mostly nothing is in another step: so these come before it is looked into
        held, later, letters = call("ZCARD", unacked), call("ZCARD", delayed), call("XLEN", KEYS[at + 3])
        left = left - (held > 0 and 1 or 0) - (later > 0 and 1 or 0) - (letters > 0 and 1 or 0)
      end
    end
    out[1 + step] = words[size]
  end
  if held > 0 and not is_quiet(unacked, held) then
    expired = overdue(unacked, 20)
  end
  if later > 0 and is_quiet(delayed, later) then
    next_due = call("ZRANGE", delayed, "0", "0", "WITHSCORES")[2]
  elseif later > 0 then
    local due = require("lib.due")
    overdue_later, next_due = overdue(delayed, 10), due.earliest(delayed, 10)
  end
  local n = 1 + steps
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = words[held], words[expired], words[later], words[overdue_later]
  out[n + 5], out[n + 6], out[n + 7] = words[letters], next_due, put or "-1"
  return concat(out, " ") .. "\n" .. stats
end

-- Why one queue cannot be read: the first of its keys that is of another type, or else the server's words.
local function blame(q, failure)
  local guard = require("lib.guard")
  local at = HASHES * queues + (q - 1) * HELD
  guard.fault = false
  guard.hash(KEYS[HASHES * q - 1]); guard.hash(KEYS[HASHES * q])
  guard.zset(KEYS[at + 1]); guard.zset(KEYS[at + 2]); guard.stream(KEYS[at + 3])
  for step = 1, steps do
    guard.list(KEYS[at + 3 + step])
  end
  return guard.fault or tostring(type(failure) == "table" and failure.err or failure)
end

local held_by, answer, next_queue = present.count(queues, HELD), { now }, 1
local function read_on()
  for q = next_queue, queues do
    next_queue = q
    answer[q + 1] = read(q, held_by[q])
  end
  next_queue = queues + 1
end

while next_queue <= queues do
  local is_sound, failure = pcall(read_on)
  if not is_sound then
    local fault = blame(next_queue, failure)
    if queues == 1 then
      return redis.error_reply(fault)
    end
    answer[next_queue + 1], next_queue = "!" .. fault, next_queue + 1
  end
end
return answer
