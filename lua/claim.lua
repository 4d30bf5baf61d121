-- claim: lease up to `limit` messages of one or several queues, in one move.
--
-- Priority steps go before queues, queues in the order given; within a step expired leases first, then due delayed
-- messages, then ready ones, each oldest first. Stops early once `max_bytes` are handed out (never before the first
-- message), and behind 200 expired or due ones. What cannot be decoded, is past its time to live or was delivered
-- `max_deliveries` times goes to dead letters, some hundred a call. Acks of earlier messages may ride along. The same
-- claim id sent again is answered with the leases it already has and takes nothing new. Begins with a freeing command,
-- so it works at full memory.
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
--   acks             group   * queue   a count, then so many receipts
-- RETURNS
--   now ms; ms until this consumer should claim again for a delayed message (-1: not its task); indexes of queues
--   that have more; acks that found nothing, as queue index and position; messages, five values each: queue index,
--   receipt, deliveries (this one included), step, message
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local guard = require("lib.guard")
local lane = require("lib.lane")
local receipts = require("lib.receipts")

local claim_id = args.text("claim_id", 96)
local call = {
  attempt = args.int("attempt", 0, 9),
  limit = args.int("limit", 0, 1000),
  lease = args.int("lease_ms", 1, 31622400000),
  renew = args.int("renew_ms", 1, 31622400000),
  max_deliveries = args.int("max_deliveries", 0, 1000000000),
  max_bytes = args.int("max_bytes", 1, 1073741824),
  steps = args.int("steps", 1, 10),
  consumer = string.match(claim_id, "^(.+)%-%d+$"),
  now = clock.now(),
  count = 0, deaths = 0, bytes = 0, headers = {}, deadlines = {}, receipts = {}, out = {}, more = {},
}
local width = lane.FIXED + call.steps
local queues = #KEYS / width
if queues ~= math.floor(queues) or queues < 1 then
  return redis.error_reply("BADARG KEYS: " .. #KEYS .. " is not a multiple of " .. width)
elseif not call.consumer then
  return redis.error_reply("BADARG claim_id: not <consumer>-<counter>")
end

local lanes, acks, leased, available = {}, {}, 0, 0
for q = 1, queues do
  lanes[q] = lane.open((q - 1) * width, call)
  leased = leased + lanes[q].in_unacked
  available = available + lanes[q].left + lanes[q].in_unacked + lanes[q].in_delayed
  acks[q] = args.group("acks", 1000)
end
local fault = args.done() or guard.fault
if fault then
  return redis.error_reply(fault)
end

local missing = {}
for q = 1, queues do
  redis.call("DEL", lanes[q].wake)
  local lost = receipts.ack(lanes[q].unacked, lanes[q].records, lanes[q].stats, acks[q])
  for i = 1, #lost do
    missing[#missing + 1], missing[#missing + 2] = q, lost[i]
  end
end

-- What this claim was given when it was here before. Its last names are the ones it will give out itself.
local replayed = false
for attempt = 0, call.attempt do
  local names = receipts.named(claim_id, attempt, attempt < call.attempt and call.limit
    or math.min(call.limit, available))
  for q = 1, #names > 0 and leased > 0 and queues or 0 do
    replayed = lane.replay(lanes[q], call, names) or replayed
  end
  call.receipts = names
end

if not replayed then
  for step = 1, call.steps do
    for q = 1, queues do
      lane.take(lanes[q], call, step)
    end
  end
end
for q = 1, queues do
  lane.close(lanes[q], call)
end
local wait = call.next_due and math.max(0, call.next_due - call.now) or -1
return { call.now, wait, call.more, missing, call.out }
