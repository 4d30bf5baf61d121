-- restore_foreign: take over what dead stock workers left in stock Kombu's `unacked`.
--
-- Stock keeps all queues of a database in one hash, so where a message belongs is known only when it was read: a
-- first call answers what is older than the visibility timeout, a second one names the list for each. Until then the
-- record stays. The message keeps its bytes, but for its count of deliveries. Stops once `max_bytes` were read. Begins
-- with a freeing command. What is no record of stock (see lib/stock_record) is a dead letter.
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
--   max_bytes        int     bytes
--   keep             text    dead letters kept, `<letters> <ms>`, 0: no limit; "": neither is limited
--   tag              text    * item    0 to 1000
-- RETURNS
--   entries restored; candidates, four values each: tag, exchange and routing key as JSON, priority
-- ERRORS
--   BADARG  WRONGTYPE
local args = require("lib.args")
local clock = require("lib.clock")
local dead = require("lib.dead")
local guard = require("lib.guard")
local limits = require("lib.limits")
local message = require("lib.message")
local stock_record = require("lib.stock_record")
local wake = require("lib.wake")

local unacked, index, letters, stats, FIXED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 4
local visibility, limit = args.int("visibility_s", 1, 3162240000), args.int("limit", 0, 1000)
local max_bytes, keep = args.int("max_bytes", 1, limits.MOST_BYTES), args.text("keep", 32)
local items = args.items("tag", 1, 1000)
args.keys(FIXED, 3 * items, 3 * items)
guard.hash(unacked); guard.zset(index); guard.stream(letters); guard.trim(letters, keep); guard.hash(stats)
for i = 1, items do
  local at = FIXED + 3 * (i - 1)
  guard.list(KEYS[at + 1]); guard.list(KEYS[at + 2]); guard.hash(KEYS[at + 3])
end
local fault = args.fault or guard.fault
if fault then
  return redis.error_reply(fault)
end

local START = 8192 -- bytes of a message by which it is judged
local oldest = clock.now() / 1000 - visibility

local function forget(tag)
  redis.call("HDEL", unacked, tag)
  redis.call("ZREM", index, tag)
end

local restored, bytes = 0, 0
local function read(tag)
  local held = redis.call("HGET", unacked, tag)
  bytes = bytes + #(held or "")
  return held
end

for i = 1, items do
  if bytes >= max_bytes then
    break
  end
  local tag, at = ARGV[args.at + i], FIXED + 3 * (i - 1)
  local score, held = redis.call("ZSCORE", index, tag), read(tag)
  local body_end = held and stock_record.parts(held)
  if score and tonumber(score) <= oldest and body_end then
    local body = string.sub(held, 2, body_end)
    forget(tag)
    -- Stock does not say what its worker held beside it: like any other, it is spared when that happens again.
    local deliveries, _, _, spared = message.head(body)
    redis.call("RPUSH", KEYS[at + 1], message.counted(body, deliveries + 1, spared + (deliveries > 0 and 1 or 0)))
    wake.one(KEYS[at + 2], redis.call("HGET", KEYS[at + 3], "paused") == "1")
    restored = restored + 1
  end
end

local found, out = {}, {}
if limit > 0 then
  found = redis.call("ZRANGEBYSCORE", index, "-inf", string.format("%.6f", oldest), "LIMIT", 0, limit)
end
for i = 1, #found do
  if bytes >= max_bytes then
    break
  end
  local held = read(found[i])
  local body_end, exchange, routing_key = stock_record.parts(held or "")
  if body_end and message.sound(string.sub(held, 2, math.min(body_end, START))) then
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = found[i], exchange, routing_key
    out[n + 4] = stock_record.priority(held, body_end)
  else
    forget(found[i])
    if held then
      local id = dead.add(letters, "undecodable", "left by a stock worker", 0, 1, held)
      redis.call("HINCRBY", stats, "dead", 1)
      dead.count(stats, 1, "undecodable")
      dead.bound(letters, stats, keep, id)
    end
  end
end
if restored > 0 then
  redis.call("HINCRBY", stats, "restored", restored)
end
return { restored, out }
