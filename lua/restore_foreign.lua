-- restore_foreign: take over what dead stock workers left in stock Kombu's `unacked`.
--
-- Stock keeps all queues of a database in one hash, so where a message belongs is known only when it was read: a
-- first call answers what is older than the visibility timeout, a second one names the list for each. Until then the
-- record stays. The message keeps its bytes, but for its count of deliveries. Stops once `max_bytes` were read. Begins
-- with a freeing command.
--
-- A record is read from its end, by plain search, for any program may have written what it holds: names of at most 4
-- KiB each, and the last priority within 8 KiB. What is no record of stock is a dead letter.
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

local oldest = clock.now() / 1000 - visibility
local NAME, TAIL, TRIES = 4096, 8192, 8 -- bytes of a name; of a message where its priority is looked for; how often
local byte, sub = string.byte, string.sub

-- Where the JSON string begins that ends with the quote at `last`: a quote behind an even number of backslashes.
local function opening(text, last)
  local quote
  for i = last - 1, math.max(1, last - NAME), -1 do
    local this = byte(text, i)
    if quote and this ~= 92 then
      if (quote - i) % 2 == 1 then
        return quote
      end
      quote = nil
    end
    if this == 34 then
      quote = i
    end
  end
end

-- The end of what stands before this member of a list.
local function before(text, at)
  local comma = at and byte(text, at - 1) == 32 and at - 2 or at and at - 1
  return comma and byte(text, comma) == 44 and comma - 1 or nil
end

-- Where the message ends, exchange and routing key; nil if it is no record of stock.
local function parts(held)
  if sub(held, 1, 1) ~= "[" or sub(held, -2) ~= '"]' then
    return nil
  end
  local routing_key = opening(held, #held - 1)
  local exchange_end = before(held, routing_key)
  local exchange = exchange_end and byte(held, exchange_end) == 34 and opening(held, exchange_end)
  local body_end = before(held, exchange)
  if body_end then
    return body_end, sub(held, exchange, exchange_end), sub(held, routing_key, -2)
  end
end

-- As stock has it: 0 to 9.
local function priority(held, body_end)
  local tail = string.reverse(sub(held, math.max(2, body_end - TAIL), body_end))
  local at = 0
  for _ = 1, TRIES do
    at = string.find(tail, ':"ytiroirp"', at + 1, true)
    if not at then
      break
    end
    local value = string.match(string.reverse(sub(tail, math.max(1, at - 12), at - 1)), "^ ?(%d+)[,}]")
    if value then
      return math.min(tonumber(value), 9)
    end
  end
  return 0
end

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
  local body_end = held and parts(held)
  if score and tonumber(score) <= oldest and body_end then
    local body = sub(held, 2, body_end)
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
  local body_end, exchange, routing_key = parts(held or "")
  if body_end and message.sound(sub(held, 2, math.min(body_end, TAIL))) then
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = found[i], exchange, routing_key
    out[n + 4] = priority(held, body_end)
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
