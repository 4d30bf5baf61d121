-- purge: throw away what a queue holds in the parts named; or single dead letters.
--
-- Frees in the background. With the part `settings` nothing of the queue is left but what passes by itself: results and
-- what is remembered of producers. A queue that is in use, or holds messages, may be spared: so one that passes with
-- its last consumer (`auto_delete` in Kombu) leaves nothing.
--
-- KEYS
--   unacked          zset
--   records          hash
--   delayed          zset
--   delayed_records  hash
--   dead             stream
--   wake             list    tokens
--   meta             hash
--   stats            hash
--   calls            set
--   calls_old        set
--   ids              zset
--   track0           hash
--   track1           hash
--   cancelled        hash
--   ready            list    * step   of all priorities there are: another fleet may have other steps
-- ARGV
--   ready            int     1: this part
--   delayed          int     1: this part
--   unacked          int     1: this part
--   dead             int     1: this part
--   settings         int     1: pause, timer, counters and remembered ids too
--   if_unused        int     1: only if nothing is unacked
--   if_empty         int     1: only if nothing is ready or delayed
--   if_idle          int     1: only if it holds nothing, has no partitions, and no consumer said that it is there
--   id               text    * item    these dead letters only
-- RETURNS
--   messages thrown away: ready, delayed, unacked, dead
-- ERRORS
--   BADARG  WRONGTYPE  INUSE
local args = require("lib.args")
local clock = require("lib.clock")
local guard = require("lib.guard")

local unacked, records, delayed, delayed_records = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local dead, tokens, meta, stats, calls, calls_old = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local ids, track0, track1, cancelled, READY = KEYS[11], KEYS[12], KEYS[13], KEYS[14], 15
args.keys(READY - 1, 1, 10)
local parts = {
  ready = args.int("ready", 0, 1) == 1, delayed = args.int("delayed", 0, 1) == 1,
  unacked = args.int("unacked", 0, 1) == 1, dead = args.int("dead", 0, 1) == 1,
  settings = args.int("settings", 0, 1) == 1,
}
local if_unused, if_empty = args.int("if_unused", 0, 1) == 1, args.int("if_empty", 0, 1) == 1
local if_idle = args.int("if_idle", 0, 1) == 1
local items = args.items("id", 1, 1000)
local sizes = { 0, guard.zset(delayed), guard.zset(unacked), guard.stream(dead) }
local ready = guard.ready(READY)
guard.hash(records); guard.hash(delayed_records); guard.list(tokens); guard.hash(meta); guard.hash(stats)
guard.set(calls); guard.set(calls_old); guard.zset(ids); guard.hash(track0); guard.hash(track1); guard.hash(cancelled)
for i = 1, #ready do
  sizes[1] = sizes[1] + ready[i]
end
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
elseif if_empty and sizes[1] + sizes[2] > 0 then
  return redis.error_reply("INUSE the queue has messages, " .. sizes[1] + sizes[2])
elseif if_unused and sizes[3] > 0 then
  return redis.error_reply("INUSE the queue has unacked messages, " .. sizes[3])
elseif if_idle then
  local set, now = redis.call("HMGET", meta, "consumers", "partitions"), clock.now()
  local in_use = set[2]
  for _, deadline in string.gmatch(set[1] or "", "(%S+) (%d+)") do
    in_use = in_use or tonumber(deadline) > now
  end
  if in_use or sizes[1] + sizes[2] + sizes[3] + sizes[4] > 0 then
    return redis.error_reply("INUSE the queue is not idle")
  end
end

if items > 0 then
  local gone = 0
  for i = 1, items do
    local n = redis.pcall("XDEL", dead, ARGV[args.at + i])
    gone = gone + (type(n) == "number" and n or 0)
  end
  return { 0, 0, 0, gone }
end
if parts.ready then
  for i = 1, #ready do
    redis.call("UNLINK", KEYS[READY + i - 1])
  end
  redis.call("DEL", tokens)
  local marks = redis.call("HGETALL", cancelled)
  for i = 1, #marks, 2 do
    if string.byte(marks[i]) ~= 33 then -- "!" and a receipt
      redis.call("HDEL", cancelled, marks[i])
    end
  end
end
if parts.delayed then
  redis.call("UNLINK", delayed, delayed_records)
  redis.call("HDEL", meta, "timer_at", "timer_by")
end
if parts.unacked then
  redis.call("UNLINK", unacked, records)
end
if parts.dead then
  redis.call("UNLINK", dead)
end
if parts.settings then
  redis.call("UNLINK", meta, stats, calls, calls_old, ids, tokens, track0, track1, cancelled)
end
return {
  parts.ready and sizes[1] or 0, parts.delayed and sizes[2] or 0, parts.unacked and sizes[3] or 0,
  parts.dead and sizes[4] or 0,
}
