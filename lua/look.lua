-- look: would a claim of these queues find anything to do? A waiting consumer asks once a second at most.
--
-- Nothing moves. Of a queue in which there is nothing to do it tells the other consumers that wait, on the channel
-- `looked`, so that one look a second serves all of them. What a claim notes of the time (see lib/outage) it notes too,
-- though more rarely. Works at full memory: what it writes begins with a freeing command.
--
-- KEYS
--   unacked          zset    * queue   receipt -> deadline (bands)
--   delayed          zset    * queue   id -> due (bands)
--   meta             hash    * queue
--   looked           any     * queue   the name of a channel
--   ready            list    * queue * step
-- ARGV
--   consumer         text    its name, which the others hear; "": they hear nothing
--   renew_ms         int     ms between two renewals of a holder
--   steps            int     priority steps, 1 to 10
--   sharded          int     1: `looked` is a sharded channel
-- RETURNS
--   indexes of the queues to claim, as one text
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local due = require("lib.due")
local guard = require("lib.guard")
local limits = require("lib.limits")
local noted = require("lib.noted")
local outage = require("lib.outage")

local FIXED = 4
local consumer, renew = args.text("consumer", 96), args.int("renew_ms", 1, limits.LONGEST_MS)
local steps, sharded = args.int("steps", 1, 10), args.int("sharded", 0, 1)
local width = FIXED + steps
local queues = #KEYS / width
if queues % 1 ~= 0 or queues < 1 then
  args.refuse("KEYS", #KEYS, "a multiple of " .. width)
end
if args.done() then
  return redis.error_reply(args.fault)
end

local now, notes = clock.now(), {}

-- Is anything due at `at`, in any of the first `most` steps?
local function is_due(key, most, at)
  if bands.due(key, at) > 0 then
    return true
  elseif bands.past_first_step(key) then
    for step = 2, most do
      if due.count(key, step, at) > 0 then
        return true
      end
    end
  end
  return false
end

-- Does no consumer mind when the next delayed message falls due?
local function is_untimed(delayed, most, timer_at)
  local earliest = due.earliest(delayed, bands.past_first_step(delayed) and most or 1)
  return earliest and not (timer_at > now and timer_at <= earliest)
end

-- How many of these keys there are, which is one command; or, where the user may not run it, how much is in them.
local function there(...)
  local many = redis.pcall("EXISTS", ...)
  if type(many) == "number" then
    return many
  end
  many = 0
  for _, key in ipairs({ ... }) do
    local size = redis.pcall("LLEN", key)
    many = many + (type(size) == "number" and size or redis.call("ZCARD", key))
  end
  return many
end

-- Would a claim find anything to do? Reads only; what is to be written goes to `notes`.
local function has_work(first)
  local unacked, delayed, meta = KEYS[first], KEYS[first + 1], KEYS[first + 2]
  local set = redis.call(
    "HMGET", meta, "paused", "seen", "grace", "renew", "renewals", "had_grace", "steps", "timer_at")
  local ended, is_back, changes = now, false, {}
  if not noted.is_recent(set[2], set[3], set[4], set[5], renew, now) then
    local _
    ended, _, is_back = outage.look(set[2], set[3], set[4], set[5], set[6], renew, now, changes)
  end
  if #changes > 0 then
    notes[meta] = changes
  end
  if there(unacked, delayed, unpack(KEYS, first + FIXED, first + width - 1)) == 0 then
    return is_back
  elseif set[1] == "1" then
    return false
  end
  local most = math.max(steps, tonumber(set[7]) or 0)
  return is_back or there(unpack(KEYS, first + FIXED, first + width - 1)) > 0
    or is_due(unacked, most, ended) or bands.apart(unacked) > 0
    or is_due(delayed, most, now) or is_untimed(delayed, most, tonumber(set[8]) or 0)
end

local found = {}
local function look()
  for q = 1, queues do
    if has_work((q - 1) * width + 1) then
      found[#found + 1] = q
    end
  end
end
local is_sound, fault = pcall(look)
if not is_sound then
  return redis.error_reply(guard.blame(fault, width, "zset", "zset", "hash", "any"))
end

local is_first = true
for meta, changes in pairs(notes) do
  if is_first then
    redis.call("HDEL", meta, "")
    is_first = false
  end
  redis.call("HSET", meta, unpack(changes))
end
local at = 1
for q = 1, consumer == "" and 0 or queues do
  if found[at] == q then
    at = at + 1
  else
    local channel = KEYS[(q - 1) * width + FIXED]
    if sharded == 1 then
      redis.pcall("SPUBLISH", channel, consumer) -- not every user may, nor every server
    else
      redis.pcall("PUBLISH", channel, consumer)
    end
  end
end
return table.concat(found, " ")
