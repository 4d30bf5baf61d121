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
--   whole numbers, as one text: now ms; ms until this consumer should claim again for a delayed message (-1: not its
--   task); how many queues have more; their indexes; acks that found nothing, as queue index and position. Then
--   messages, five values each: queue index, receipt, deliveries (this one included), step, message
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
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
  count = 0, deaths = 0, bytes = 0, headers = {}, deadlines = {}, out = { "" }, more = {}, freed = false,
}
local width = lane.FIXED + call.steps
local queues = #KEYS / width
if queues % 1 ~= 0 or queues < 1 then
  return redis.error_reply("BADARG KEYS: " .. #KEYS .. " is not a multiple of " .. width)
elseif not call.consumer then
  return redis.error_reply("BADARG claim_id: not <consumer>-<counter>")
end
local acks = {}
for q = 1, queues do
  acks[q] = args.group("acks", 1000)
end
if args.done() then
  return redis.error_reply(args.fault)
end

-- All reads. What is wrong with a key is told before anything is written.
local lanes, is_repeated = {}, call.attempt > 0
local function look()
  local leased, available = 0, 0
  for q = 1, queues do
    local this = lane.open((q - 1) * width, call, acks[q])
    lanes[q], leased = this, leased + this.in_unacked
    available = available + this.left + this.in_unacked + this.in_delayed
  end
  call.receipts = receipts.named(claim_id, call.attempt, math.min(call.limit, available))
  for q = 1, queues do
    -- Nobody uses a claim id twice; if somebody does, no lease is overwritten.
    local names = leased > 0 and #call.receipts > 0 and call.receipts or { "" }
    local held = redis.call("HMGET", lanes[q].records, unpack(names))
    for i = 1, #names do
      is_repeated = is_repeated or held[i] ~= false
    end
  end
end
local is_sound, fault = pcall(look)
if not is_sound then
  local guard = require("lib.guard")
  return redis.error_reply(
    guard.blame(fault, width, "zset", "hash", "zset", "hash", "stream", "list", "hash", "hash"))
end

local missing = ""
for q = 1, queues do
  local this = lanes[q]
  local n = #acks[q]
  if n > 0 then
    local lost = receipts.ack(this.unacked, this.records, acks[q])
    this.acked, this.in_unacked, call.freed = n - #lost, this.in_unacked - n + #lost, true
    for i = 1, #lost do
      missing = missing .. " " .. q .. " " .. lost[i]
    end
  end
end

local is_replayed = false
if is_repeated then
  local replay = require("lib.replay")
  is_replayed = replay.all(lanes, call, claim_id)
end
for step = 1, is_replayed and 0 or call.steps do
  for q = 1, queues do
    lane.take(lanes[q], call, step)
  end
end
for q = 1, queues do
  lane.close(lanes[q], call)
end
local wait = call.next_due and math.max(0, call.next_due - call.now) or -1
local more = call.more[1] and table.concat(call.more, " ") .. " " or ""
call.out[1] = call.now .. " " .. wait .. " " .. #call.more .. " " .. more .. missing
return call.out
