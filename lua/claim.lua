-- claim: lease up to `limit` messages of one or several queues, in one move.
--
-- Priority steps go before queues, queues in the order given; within a step expired leases first, then due delayed
-- messages, then ready ones, each oldest first. Stops early once `max_bytes` are handed out (never before the first
-- message), and behind 200 expired or due ones. What twice ended without a word, while its consumer held others, goes
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
--   acks             group   * queue   a count, then so many receipts
-- RETURNS
--   whole numbers, as one text: now ms; ms until this consumer should claim again for a delayed message (-1: not its
--   task); ms for which it is asked not to claim, to come to hold nothing (0: it is not); how many queues have more;
--   their indexes; acks that found nothing, as queue index and position. Then messages, five values each: queue index,
--   receipt, deliveries (this one included), step, message. Last, if it made dead letters, a list of them, four values
--   each: queue index, reason, detail, message
-- ERRORS
--   BADARG  WRONGTYPE
local unacked, records, delayed, tokens, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[8], 8
local TASTE, BEHIND = 4, "4398046511104" -- see lib/lane, lib/bands
local claim_id, limit, lease = ARGV[1], tonumber(ARGV[3]) or 0, tonumber(ARGV[4]) or 0
local max_bytes, acks, byte, time = tonumber(ARGV[7]) or 0, #ARGV - 10, string.byte, redis.call("TIME")
local now = time[1] .. string.sub("00000" .. time[2], -6, -4)

-- Nearly every claim is of one queue in which nothing falls due, and gets plain messages of its first step. What is
-- here runs for every task there is, so nothing is called that can be done without. Anything else, and be it a fault,
-- is for lib/claiming.
local is_plain = acks >= 0 and acks <= 1000 and tonumber(ARGV[10]) == acks and ARGV[2] == "0" and #claim_id <= 96
  and limit >= 1 and limit <= 1000 and lease >= 1 and lease <= 31622400000 and max_bytes <= 1073741824
  and #ARGV[6] > 0 and #ARGV[6] < 10 and #ARGV[9] > 0 and #ARGV[9] < 12 and #KEYS == READY + (tonumber(ARGV[8]) or 0)
  -- tonumber takes 1e2 and 0x10 as well
  and not string.find(ARGV[3] .. ARGV[4] .. ARGV[6] .. ARGV[7] .. ARGV[9] .. ARGV[10], "%D")
local names, left, largest, has_token = {}, 0, 0, false

-- Whether anything in this index is due, or stands behind the first step: is not between.
local function stirs(index)
  local size = redis.call("ZCARD", index)
  return size > 0 and size > redis.call("ZCOUNT", index, "(" .. now .. ".5", "(" .. BEHIND)
end

-- All reads: names for what it will hand out, if it is plain. Whether there is a grace is not asked: it is for what has
-- expired, and that stirs.
local function look()
  local size = redis.call("LLEN", KEYS[READY + 1])
  left = size > limit and size - limit or 0
  for step = 2, left > 0 and 0 or #KEYS - READY do
    left = left + redis.call("LLEN", KEYS[READY + step])
  end
  local set = redis.call("HMGET", KEYS[7], "paused", "seen", "renew", "largest", "steps")
  local since = now - (tonumber(set[2]) or 0)
  largest = tonumber(set[4]) or max_bytes
  if size == 0 or size < limit and left > 0 or set[1] == "1" or since < 0 or since > 250
    or set[3] ~= ARGV[5] or set[5] ~= ARGV[8] or largest * limit > max_bytes or stirs(unacked)
    or redis.call("ZCARD", delayed) > 0 and (left == 0 or stirs(delayed)) then
    return
  end
  has_token = redis.call("LLEN", tokens) > 0
  for i = 1, size < limit and size or limit do
    names[i] = claim_id .. ".0." .. i
  end
  local held = redis.call("HMGET", records, unpack(names))
  for i = 1, #names do
    is_plain = is_plain and not held[i] -- nobody uses a claim id twice; if somebody does, no lease is overwritten
  end
end

local bodies, ready, take = {}, KEYS[READY + 1], 0
if is_plain and pcall(look) and is_plain then
  take = #names
end
while is_plain and #bodies < take do
  local some = redis.call("RPOP", ready, #bodies == 0 and take > TASTE and TASTE or take - #bodies)
  for i = 1, #some do
    local body = some[i]
    local brace, quote, first = byte(body, 1, 3)
    is_plain = is_plain and brace == 123 and quote == 34 and first ~= 120 and #body <= largest -- not "x-...
    bodies[#bodies + 1] = body
  end
end
if not (is_plain and take > 0 and type(redis.pcall("HINCRBY", stats, "delivered", take)) == "number") then
  for i = #bodies, 1, -1 do
    redis.call("RPUSH", ready, bodies[i])
  end
  local claiming = require("lib.claiming")
  return claiming.run()
end

local missing = ""
if acks > 0 then
  local lost = 0
  if redis.call("HDEL", records, unpack(ARGV, 11)) == acks then
    redis.call("ZREM", unacked, unpack(ARGV, 11))
  else
    local receipts = require("lib.receipts")
    local positions = receipts.ack(unacked, records, { unpack(ARGV, 11) })
    lost, missing = #positions, #positions > 0 and " 1 " .. table.concat(positions, " 1 ") or ""
  end
  if lost < acks then
    redis.call("HINCRBY", stats, "acked", acks - lost)
  end
end
local header, deadline, held, scores, out = "1 1 " .. now .. " ", string.format("%.0f", now + lease), {}, {}, { "" }
if take == 1 and ARGV[9] == "0" then
  deadline = deadline .. ".5" -- alone: see lib/bands
end
for i = 1, take do
  local name, body = names[i], bodies[i]
  held[2 * i - 1], held[2 * i] = name, header .. body
  scores[2 * i - 1], scores[2 * i] = deadline, name
  out[5 * i - 3], out[5 * i - 2], out[5 * i - 1], out[5 * i], out[5 * i + 1] = 1, name, 1, 1, body
end
redis.call("HSET", records, unpack(held))
redis.call("ZADD", unacked, unpack(scores))
if left > 0 and not has_token then
  redis.call("RPUSH", tokens, "1")
elseif left == 0 and has_token then
  redis.call("DEL", tokens)
end
out[1] = now .. (left > 0 and " -1 0 1 1" or " -1 0 0") .. missing
return out
