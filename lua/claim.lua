-- claim: lease up to `limit` messages of one or several queues, in one move.
--
-- Priority steps go before queues, queues in the order given; within a step expired leases first, then due delayed
-- messages, then ready ones, each oldest first. Stops early once `max_bytes` are handed out (never before the first
-- message), and behind 200 expired or due ones. What twice was not settled, while its consumer held others, goes
-- alone (see lib/apart), and before all of its step. What cannot be decoded, is past its time to live or was delivered
-- `max_deliveries` times goes to dead letters, some hundred a call, and is answered for `tell`. Acks of earlier
-- messages may ride along. The same claim id sent again is answered with the leases it already has and the dead letters
-- it made, and takes nothing new. Begins with a freeing command, so it works at full memory.
--
-- KEYS
--   unacked          zset    * queue   receipt -> deadline (bands)
--   records          hash    * queue   receipt -> record
--   delayed          zset    * queue   id -> due (bands)
--   delayed_records  hash    * queue   id -> record
--   dead             stream  * queue
--   wake             list    * queue   tokens
--   meta             hash    * queue
--   stats            hash    * queue
--   track0           hash    * queue   id of a tracked message -> where it is (see lib/tracking); expires
--   track1           hash    * queue
--   cancelled        hash    * queue   id, or ! and a receipt -> when it was cancelled (ms)
--   ready            list    * queue * step
-- ARGV
--   claim_id         text    <consumer>-<counter>, never used for two claims
--   attempt          int     0; one more at each retry of the same claim
--   limit            int     messages, 0 to 1000; 0 only passes a token on
--   lease_ms         int     ms
--   renew_ms         int     ms between two renewals of a holder
--   max_deliveries   int     0: no limit
--   max_bytes        int     bytes
--   steps            int     priority steps, 1 to 10
--   company          int     0: the consumer holds nothing else; 1: it does; ms, at least, to claim nothing if asked
--   keep             text    dead letters kept, `<letters> <ms>`, 0: no limit; "": neither is limited
--   acks             group   * queue   a count, then so many receipts, as in ack
-- RETURNS
--   whole numbers, as one text: now ms; ms until this consumer should claim again for a delayed message (-1: not its
--   task); ms for which it is asked not to claim, to come to hold nothing (0: it is not); how many queues have more,
--   and their indexes; an attempt, or -1; how many runs of messages that are alike, and four numbers for each: queue
--   index, deliveries (this one included), step, messages; acks that found nothing, as queue index and position. Then
--   the messages. The receipt of the i-th is <claim_id>.<attempt>.<i>; with -1 each has its receipt before it. Last, if
--   it made dead letters, a list of them, four values each: queue index, reason, detail, message
-- ERRORS
--   BADARG  WRONGTYPE
local limits = require("lib.limits")
local unacked, records, delayed, tokens, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[8], 11
local TASTE, QUIET = 4, limits.RESOLUTION_MS -- see lib/delivering, lib/quiet
local claim_id, limit, lease = ARGV[1], tonumber(ARGV[3]) or 0, tonumber(ARGV[4]) or 0
local max_bytes, acks, byte, time = tonumber(ARGV[7]) or 0, #ARGV - 11, string.byte, redis.call("TIME")
local now = time[1] .. string.sub("00000" .. time[2], -6, -4)

-- Nearly every claim is of one queue in which nothing falls due, and gets plain messages of one step. What is here runs
-- for every task there is, so nothing is called that can be done without. Anything else, and be it a fault, is for
-- lib/claiming.
local is_plain = acks >= 0 and acks <= 1000 and tonumber(ARGV[11]) == acks and ARGV[2] == "0" and #claim_id <= 96
  and limit >= 1 and limit <= 1000 and lease >= QUIET and lease <= limits.LONGEST_MS and max_bytes <= limits.MOST_BYTES
  and #ARGV[6] > 0 and #ARGV[6] < 10 and #ARGV[9] > 0 and #ARGV[9] < 12 and #KEYS == READY + (tonumber(ARGV[8]) or 0)
  -- tonumber takes 1e2 and 0x10 as well
  and not string.find(ARGV[3] .. ARGV[4] .. ARGV[6] .. ARGV[7] .. ARGV[9] .. ARGV[11], "%D")
local ready, step, left, largest, take, has_token, is_idle = KEYS[READY + 1], "1", 0, 0, 0, false, false
local size, there, due -- of the first ready list; how many other keys there are, if it is empty; messages due
local timer_at, has_rested -- another consumer has to keep the time; nothing is held, which the next need not look for

-- Reads how many it takes, none if it is not plain, and what it leaves. That no lease has ended it knows from `quiet`,
-- or there is none. Of what is delayed counts what goes before; anything, where the first step has nothing ready.
-- Behind the last message another consumer has to keep the time of the next, if none does.
local function look()
  local others, in_unacked = 0, nil
  size = redis.call("LLEN", ready)
  local found = size
  if size == 0 then
    there = redis.call("EXISTS", unacked, delayed, tokens, unpack(KEYS, READY + 2))
    due = there > 0 and redis.call("ZCOUNT", delayed, "-inf", now .. ".5") or 0
    if due > 0 then
      return
    end
  end
  local set = redis.call("HMGET", KEYS[7], "paused", "seen", "renew", "largest", "steps", "quiet", "cancels")
  local since, rest = now - (tonumber(set[2]) or 0), (tonumber(set[6]) or 0) - now
  largest = tonumber(set[4]) or max_bytes
  local is_quiet = since >= 0 and since <= QUIET and rest > 0 and rest <= QUIET
  if set[1] == "1" or set[3] ~= ARGV[5] or set[5] ~= ARGV[8] or set[7] and set[7] - now > 0 then
    return
  elseif size == 0 then
    in_unacked = there > 0 and redis.call("ZCARD", unacked) or 0
    if not is_quiet and in_unacked + acks > 0 then
      return
    end
    local besides, first = in_unacked > 0 and there - 1 or there, 1
    local later = besides > 0 and redis.call("ZCARD", delayed) or 0
    has_token = besides > 0 and redis.call("LLEN", tokens) > 0
    if besides == (later > 0 and 1 or 0) + (has_token and 1 or 0) then
      local idle = require("lib.idle")
      is_idle = idle.is_idle(now, acks, is_quiet, later, has_token)
      return
    elseif later > 0 then
      return
    end
    while found == 0 do
      first = first + 1
      found = redis.call("LLEN", KEYS[READY + first])
    end
    ready, step = KEYS[READY + first], first < 10 and string.char(48 + first) or "10"
  end
  if not is_quiet and (in_unacked or redis.call("ZCARD", unacked)) == 0 then
    local noted = require("lib.noted")
    local known = redis.call("HMGET", KEYS[7], "seen", "grace", "renew", "renewals")
    is_quiet = noted.is_recent(known[1], known[2], known[3], known[4], tonumber(ARGV[5]), tonumber(now))
    has_rested = is_quiet
  end
  left = found - limit
  if not is_quiet or largest * limit > max_bytes then
    return
  elseif left > 0 then
    others = size > 0 and redis.call("ZCOUNT", delayed, "-inf", now .. ".5") or 0
  else
    for later = step + 1, #KEYS - READY do
      others = others + redis.call("LLEN", KEYS[READY + later])
    end
    local later = size > 0 and redis.call("ZCARD", delayed) or 0
    if later > 0 and others == 0 then
      local timer = require("lib.timer")
      local is_kept = timer.is_kept(later, now)
      others, timer_at = is_kept == nil and 1 or 0, not is_kept and timer.at or nil
    end
  end
  if acks > 1 then -- those go first then: their keys are looked at
    redis.call("HLEN", records)
    redis.call("ZCARD", unacked)
  end
  if size > 0 and others == 0 then
    has_token = redis.call("LLEN", tokens) > 0
  end
  take = others > 0 and 0 or left < 0 and found or limit
end

-- Acks, of which it answers what found nothing. They go before the leases if they are many, as the server looks through
-- all of a small index for each new entry; one goes behind them, and no command is spent on the types of its keys.
local missing, ended
local function settle()
  local lost, text = 0, ""
  if not string.find(ARGV[#ARGV], " ", 1, true) and redis.call("HDEL", records, unpack(ARGV, 12)) == acks then
    redis.call("ZREM", unacked, unpack(ARGV, 12))
  else
    local receipts = require("lib.receipts")
    local positions
    positions, ended = receipts.ack(unacked, records, { unpack(ARGV, 12) })
    lost, text = #positions, #positions > 0 and " 1 " .. table.concat(positions, " 1 ") or ""
  end
  if lost < acks then
    redis.call("HINCRBY", stats, "acked", acks - lost)
  end
  return text
end

local is_sound = is_plain
is_plain = is_plain and pcall(look) and take > 0
if is_idle then
  local idle = require("lib.idle")
  missing = acks > 0 and settle() or ""
  return { idle.answer(now) .. missing }
end
local out, bodies, tracked = { "" }, 0, nil
while is_plain and bodies < take do
  local some = redis.call("RPOP", ready, bodies == 0 and take > TASTE and TASTE or take - bodies)
  for i = 1, #some do
    local body = some[i]
    local brace, quote, first = byte(body, 1, 3)
    is_plain = is_plain and brace == 123 and quote == 34 and #body <= largest
    bodies = bodies + 1
    if first == 120 and is_plain then -- "x-...: it is plain if it says only that it is tracked
      local id = string.match(body, '^{"x%-tracked":"([^"\\]+)",')
      tracked = tracked or {}
      tracked[bodies], is_plain = id, id ~= nil
    end
    out[bodies + 1] = body
  end
end

is_plain = is_plain and type(redis.pcall("HINCRBY", stats, "delivered", take)) == "number"
if is_plain then
  missing = acks > 1 and settle() or nil
  local header, front, held, scores = "1 " .. step .. " " .. now .. " ", claim_id .. ".0.", {}, {}
  local deadline = step == "1" and now + lease or (step - 1) * limits.BAND + now + lease
  local digits = take > 1 and { [0] = "0", "1", "2", "3", "4", "5", "6", "7", "8", "9" } or { "1" }
  if take > 1 then
    deadline = string.format("%.0f", deadline)
  elseif ARGV[9] == "0" then
    deadline = deadline + 0.5 -- alone: see lib/bands
  end
  for i = 1, take do
    -- 12 is 1 and a 2: the server needs as long for a number as for five texts.
    local name = (i < 10 and front or scores[(i - i % 10) / 5]) .. digits[i % 10]
    held[2 * i - 1], held[2 * i] = name, header .. out[i + 1]
    scores[2 * i - 1], scores[2 * i] = deadline, name
  end
  -- A claim id is used once. If a consumer uses one twice, no lease is overwritten; a message without one is taken
  -- back.
  is_plain = redis.pcall("ZADD", unacked, "NX", unpack(scores)) == take
    and type(redis.pcall("HSET", records, unpack(held))) == "number"
  if not is_plain then
    for i = 1, 2 * take, 2 do
      if type(redis.pcall("HGET", records, held[i])) ~= "string" then
        redis.pcall("ZREM", unacked, held[i])
      end
    end
    redis.call("HINCRBY", stats, "delivered", -take)
  end
end
if not is_plain then
  for i = bodies + 1, 2, -1 do
    redis.call("RPUSH", ready, out[i])
  end
  local claiming = require("lib.claiming")
  local us = time[1] * limits.SECOND_US + time[2]
  return claiming.run(now, us, is_sound, { missing = missing, ended = ended, size = size, there = there, due = due })
end

missing = missing or acks > 0 and settle() or ""
if tracked or ended then
  local tracking = require("lib.tracking")
  local us, notes = time[1] * limits.SECOND_US + time[2], {}
  for i, id in pairs(tracked or {}) do
    notes[#notes + 1], notes[#notes + 2] = id, tracking.text("h", us, claim_id .. ".0." .. i)
  end
  tracking.write(9, tracking.done(notes, ended or {}, us), us)
end
if has_rested then
  redis.call("HSET", KEYS[7], "quiet", string.format("%.0f", now + QUIET), "seen", now)
end
if timer_at and timer_at > 0 then
  redis.call("HSET", KEYS[7], "timer_at", 0)
end
if (left > 0 or timer_at) and not has_token then
  redis.call("RPUSH", tokens, "1")
elseif left <= 0 and not timer_at and has_token then
  redis.call("DEL", tokens)
end
out[1] = now .. (left > 0 and " -1 0 1 1 0 1 1 1 " or " -1 0 0 0 1 1 1 ") .. step .. " " .. take .. missing
return out
