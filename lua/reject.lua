-- reject: move messages to dead letters, with the reason; the waiters for their results get an answer.
--
-- Begins with a freeing command, so it works at full memory. Stops once `max_bytes` were moved.
--
-- KEYS
--   unacked          zset    receipt -> deadline (bands)
--   records          hash    receipt -> record
--   dead             stream
--   stats            hash
--   track0           hash    where tracked messages are (see lib/tracking); expires
--   track1           hash
--   result           string  * item    also the channel its waiters listen on
-- ARGV
--   ttl_ms           int     ms that a result is kept
--   sharded          int     1: its channel is a sharded one too
--   max_bytes        int     bytes
--   keep             text    dead letters kept, `<letters> <ms>`, 0: no limit; "": neither is limited
--   receipt          text    * item    1 to 1000
--   reason           text    * item    one word
--   detail           text    * item    what a person would ask next; "" if nothing
--   value            text    * item    the result, JSON; "": no result is stored
-- RETURNS
--   a verdict per item: 1 rejected, 0 not live, 2 not done, call again
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local dead = require("lib.dead")
local limits = require("lib.limits")
local receipts = require("lib.receipts")
local record = require("lib.record")
local results = require("lib.results")

local unacked, records, letters, stats, RESULT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 7
local ttl, sharded = args.int("ttl_ms", 1, limits.LONGEST_MS), args.int("sharded", 0, 1)
local max_bytes = args.int("max_bytes", 1, limits.MOST_BYTES)
local keep = args.text("keep", 32)
local items = args.items("receipt, reason, detail and value", 4, 1000)
args.keys(RESULT - 1, items, items)
local counters = redis.pcall("HLEN", stats)
local wrong = type(counters) == "table" and counters or redis.pcall("XLEN", letters)
if args.fault or keep ~= "" or type(wrong) == "table" then
  local guard = require("lib.guard")
  guard.hash(stats); guard.stream(letters); guard.trim(letters, keep)
  local fault = args.fault or guard.fault
  if fault then
    return redis.error_reply(fault)
  end
end

local verdicts, bytes, rejected, reasons, last, us, notes = {}, 0, 0, {}, nil, nil, nil
for i = 1, items do
  local at = args.at + 4 * (i - 1)
  verdicts[i] = 2
  if bytes < max_bytes then
    local held, fault = receipts.remove(unacked, records, ARGV[at + 1])
    if fault and i == 1 then -- behind it there may be no key any more
      local guard = require("lib.guard")
      guard.zset(unacked); guard.hash(records)
      return redis.error_reply(guard.fault or fault.err)
    end
    verdicts[i] = held and 1 or 0
    if held then
      local deliveries, step, _, body = record.split(held)
      local reason = ARGV[at + 2]
      bytes, rejected, reasons[reason] = bytes + #held, rejected + 1, (reasons[reason] or 0) + 1
      last = dead.add(letters, reason, ARGV[at + 3], deliveries or 0, step or 1, body or held)
      if string.byte(body or held, 3) == 120 then -- "x-...
        local tracking = require("lib.tracking")
        us = us or tracking.now()
        notes = tracking.note(notes, body or held, "d", us, last)
      end
      results.tell(KEYS[RESULT + i - 1], ARGV[at + 4], ttl, sharded)
    end
  end
end
if rejected > 0 then
  counters = redis.call("HINCRBY", stats, "dead", rejected) == rejected and counters + 1 or counters
  for reason, n in pairs(reasons) do
    counters = dead.count(stats, n, reason, counters)
  end
  if notes then
    local tracking = require("lib.tracking")
    tracking.write(5, notes, us)
  end
  if keep ~= "" then
    dead.bound(letters, stats, keep, last)
  end
end
return verdicts
