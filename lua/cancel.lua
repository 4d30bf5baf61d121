-- cancel: delayed messages by id. They are gone for good.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   stats            hash
-- ARGV
--   id               text    * item    1 to 1000
-- RETURNS
--   positions of the ids that are not delayed
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local guard = require("lib.guard")

local delayed, delayed_records, stats = KEYS[1], KEYS[2], KEYS[3]
args.keys(3, 0, 0)
local items = args.items("id", 1, 1000)
guard.zset(delayed); guard.hash(delayed_records); guard.hash(stats)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local missing = {}
for i = 1, items do
  local was = redis.call("ZREM", delayed, ARGV[i]) + redis.call("HDEL", delayed_records, ARGV[i])
  if was == 0 then
    missing[#missing + 1] = i
  end
end
if #missing < items then
  redis.call("HINCRBY", stats, "cancelled", items - #missing)
end
return missing
