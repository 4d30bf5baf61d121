-- run_now: delayed messages fall due at once.
--
-- Begins with a freeing command (it frees nothing), so it works at full memory.
--
-- KEYS
--   delayed          zset    id -> due (bands)
--   delayed_records  hash    id -> record
--   wake             list    tokens
--   meta             hash
-- ARGV
--   id               text    * item    1 to 1000
-- RETURNS
--   positions of the ids that are not delayed
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local guard = require("lib.guard")
local wake = require("lib.wake")

local delayed, delayed_records, tokens, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local items = args.items("id", 1, 1000)
args.keys(4, 0, 0)
guard.zset(delayed); guard.hash(delayed_records); guard.list(tokens); guard.hash(meta)
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local now, missing = clock.now(), {}
redis.call("HDEL", delayed_records, "")
for i = 1, items do
  local score = redis.call("ZSCORE", delayed, ARGV[i])
  if not score then
    missing[#missing + 1] = i
  elseif score % bands.SIZE > now then -- it keeps its place if it is due already
    redis.call("ZADD", delayed, "XX", bands.moved(score, now), ARGV[i])
  end
end
if #missing < items then
  wake.one(tokens, redis.call("HGET", meta, "paused") == "1")
end
return missing
