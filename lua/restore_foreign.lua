-- restore_foreign: take over what dead stock workers left in stock Kombu's `unacked`.
--
-- Stock keeps all queues of a database in one hash, so where a message belongs is known only when it was read: a
-- first call answers what is older than the visibility timeout, a second one names the list for each. Until then the
-- record stays. The message keeps its bytes, but for its count of deliveries. Begins with a freeing command.
--
-- KEYS
--   stock_unacked    hash    tag -> [message, exchange, routing key]
--   stock_index      zset    tag -> when it was delivered, seconds by the worker's clock
--   dead             stream  for what cannot be parsed
--   stats            hash
--   ready            list    * item
--   wake             list    * item
--   meta             hash    * item
-- ARGV
--   visibility_s     int     s
--   limit            int     entries answered, 0 to 1000
--   tag              text    * item    0 to 1000
-- RETURNS
--   entries restored; candidates, four values each: tag, exchange and routing key as JSON, priority
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local dead = require("lib.dead")
local guard = require("lib.guard")
local message = require("lib.message")
local wake = require("lib.wake")

local unacked, index, letters, stats, FIXED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 4
local visibility, limit = args.int("visibility_s", 1, 3162240000), args.int("limit", 0, 1000)
local items = args.items("tag", 1, 1000)
args.keys(FIXED, 3 * items, 3 * items)
guard.hash(unacked); guard.zset(index); guard.stream(letters); guard.hash(stats)
for i = 1, items do
  local at = FIXED + 3 * (i - 1)
  guard.list(KEYS[at + 1]); guard.list(KEYS[at + 2]); guard.hash(KEYS[at + 3])
end
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local oldest = clock.now() / 1000 - visibility
local function parts(held)
  return string.match(held, '^%[(.*), ?(".-"), ?(".-")%]$')
end

local function forget(tag)
  redis.call("HDEL", unacked, tag)
  redis.call("ZREM", index, tag)
end

local restored = 0
for i = 1, items do
  local tag, at = ARGV[args.at + i], FIXED + 3 * (i - 1)
  local score, held = redis.call("ZSCORE", index, tag), redis.call("HGET", unacked, tag)
  local body = held and parts(held)
  if score and tonumber(score) <= oldest and body then
    forget(tag)
    redis.call("RPUSH", KEYS[at + 1], message.counted(body, message.head(body) + 1))
    wake.one(KEYS[at + 2], redis.call("HGET", KEYS[at + 3], "paused") == "1")
    restored = restored + 1
  end
end

local found, out = {}, {}
if limit > 0 then
  found = redis.call("ZRANGEBYSCORE", index, "-inf", string.format("%.6f", oldest), "LIMIT", 0, limit)
end
for i = 1, #found do
  local held = redis.call("HGET", unacked, found[i])
  local body, exchange, routing_key = parts(held or "")
  if body and message.sound(body) then
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = found[i], exchange, routing_key
    out[n + 4] = string.match(body, '.*"priority": ?(%d)[,}]') or "0"
  else
    forget(found[i])
    if held then
      dead.add(letters, "undecodable", "left by a stock worker", 0, 1, held)
      redis.call("HINCRBY", stats, "dead", 1)
    end
  end
end
if restored > 0 then
  redis.call("HINCRBY", stats, "restored", restored)
end
return { restored, out }
