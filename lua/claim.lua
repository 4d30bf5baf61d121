-- claim: lease up to `limit` messages of one or several queues, in one move.
--
-- Priority steps go before queues, queues in the order given; within a step expired leases first, then due delayed
-- messages, then ready ones, each oldest first. Stops early once `max_bytes` are handed out (never before the first
-- message), and behind 200 expired or due ones. What twice was not settled, while its consumer held others, goes
-- alone (see lib/apart), and before all of its step. What cannot be decoded, is past its time to live or was delivered
-- `max_deliveries` times goes to dead letters, some hundred a call, and is answered for `tell`. Acks of earlier
-- messages may ride along. The same claim id sent again is answered with the leases it already has and the dead letters
-- it made, and takes nothing new; which queues have more is said as it is by now, and others are woken for it. Begins
-- with a freeing command, so it works at full memory.
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
--   looked           any     * cluster   of the first queue; never there, so a slot that moves key by key refuses all
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
--   it made dead letters, a list of them, four values each: queue index, reason, detail, message. Where nothing follows
--   the text, it is the answer, and where one value does, both are one text, with a line break between
-- ERRORS
--   BADARG  WRONGTYPE
local limits = require("lib.limits")
local plain = require("lib.plain")
local unacked, records, stats, claim_id, acks = KEYS[1], KEYS[2], KEYS[8], ARGV[1], #ARGV - 11
local TASTE = 4 -- see lib/delivering
local time = redis.call("TIME")
local now = time[1] .. string.sub("00000" .. time[2], -6, -4)
local this = { -- what is found, see lib/plain
  is_sound = false, take = 0, left = 0, size = false, ready = KEYS[12], step = "1", deadline = 0, largest = 0,
  has_token = false,
}
local is_plain = pcall(plain.look, this, now) and this.take > 0
if this.is_idle then
  local idle = require("lib.idle")
  local lost = acks > 0 and plain.settle(acks) or ""
  return idle.answer(now) .. lost
end

local take, left, ready, step, largest = this.take, this.left, this.ready, this.step, this.largest
local bodies, n, tracked = nil, 0, nil
while is_plain and n < take do
  local some = take == 1 and { redis.call("RPOP", ready) }
    or redis.call("RPOP", ready, n == 0 and take > TASTE and TASTE or take - n)
  for i = 1, #some do
    local body = some[i]
    local brace, quote, first = string.byte(body, 1, 3)
    is_plain = is_plain and brace == 123 and quote == 34 and #body <= largest
    n = n + 1
    if first == 120 and is_plain then -- "x-...: it is plain if it says only that it is tracked
      local id = string.match(body, '^{"x%-tracked":"([^"\\ ]+)[ %d]*",')
      tracked = tracked or {}
      tracked[n], is_plain = id, id ~= nil
    end
    if bodies then
      bodies[n] = body
    end
  end
  bodies = bodies or some
end

-- Acks go before the leases if they are many, as the server looks through all of a small index for each new entry; one
-- goes behind them, and no command is spent on the types of its keys.
local missing, ended
is_plain = is_plain and type(redis.pcall("HINCRBY", stats, "delivered", take)) == "number"
if is_plain then
  if acks > 1 then
    missing, ended = plain.settle(acks)
  end
  local header, front, deadline = "1 " .. step .. " " .. now .. " ", claim_id .. ".0.", this.deadline
  if take > 1 then
    deadline = string.format("%.0f", deadline)
  elseif ARGV[9] == "0" then
    deadline = deadline + 0.5 -- alone: see lib/bands
  end
  local name = front .. "1"
  local held, scores = { name, header .. bodies[1] }, { deadline, name }
  local digits = take > 1 and { [0] = "0", "1", "2", "3", "4", "5", "6", "7", "8", "9" }
  for i = 2, take do
    -- 12 is 1 and a 2: the server needs as long for a number as for five texts.
    name = (i < 10 and front or scores[(i - i % 10) / 5]) .. digits[i % 10]
    held[2 * i - 1], held[2 * i] = name, header .. bodies[i]
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
  for i = n, 1, -1 do
    redis.call("RPUSH", ready, bodies[i])
  end
  local claiming = require("lib.claiming")
  this.missing, this.ended = missing, ended
  return claiming.run(now, time[1] * limits.SECOND_US + time[2], this)
end

if not missing then
  missing = ""
  if acks > 0 then
    missing, ended = plain.settle(acks)
  end
end
if tracked or ended then
  local tracking = require("lib.tracking")
  local us, notes = time[1] * limits.SECOND_US + time[2], {}
  for i, id in pairs(tracked or {}) do
    notes[#notes + 1], notes[#notes + 2] = id, tracking.text("h", us, claim_id .. ".0." .. i)
  end
  tracking.write(9, tracking.done(notes, ended or {}, us), us)
end
local timer_at = this.timer_at
if this.has_rested then
  redis.call("HSET", KEYS[7], "quiet", string.format("%.0f", now + limits.RESOLUTION_MS), "seen", now)
end
if timer_at and timer_at > 0 then
  redis.call("HSET", KEYS[7], "timer_at", 0)
end
if (left > 0 or timer_at) and not this.has_token then
  redis.call("RPUSH", KEYS[6], "1")
elseif left <= 0 and not timer_at and this.has_token then
  redis.call("DEL", KEYS[6])
end
local many = left >= 0 and ARGV[3] or take -- a number costs much to write
local numbers = now .. (left > 0 and " -1 0 1 1 0 1 1 1 " or " -1 0 0 0 1 1 1 ") .. step .. " " .. many .. missing
if take == 1 then
  return numbers .. "\n" .. bodies[1]
end
return { numbers, unpack(bodies) }
