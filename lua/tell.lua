-- tell: store results of messages that no consumer holds any more, and publish them to their waiters.
--
-- For dead letters that a claim made. A result that is there already stays, and is kept for as long as a new one. Works
-- at full memory, for its first write is allowed there (PEXPIRE, which also answers whether there is a result).
--
-- KEYS
--   result           string  * item    also the channel its waiters listen on
-- ARGV
--   ttl_ms           int     ms that a result is kept
--   sharded          int     1: its channel is a sharded one too
--   value            text    * item    the result, JSON; 1 to 1000
-- RETURNS
--   how many were stored
-- ERRORS
--   BADARG
local args = require("lib.args")
local limits = require("lib.limits")
local results = require("lib.results")

local ttl, sharded = args.int("ttl_ms", 1, limits.LONGEST_MS), args.int("sharded", 0, 1)
local items = args.items("value", 1, 1000)
args.keys(0, items, items)
if args.fault then
  return redis.error_reply(args.fault)
end

local stored = 0
for i = 1, items do
  if redis.call("PEXPIRE", KEYS[i], ttl) == 0 then
    results.tell(KEYS[i], ARGV[args.at + i], ttl, sharded)
    stored = stored + 1
  end
end
return stored
