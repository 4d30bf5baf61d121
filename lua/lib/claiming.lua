-- A claim in full: of several queues, of what falls due, with priorities, settings that change, and whatever may be
-- wrong. `claim` comes here when it is not one of those that nearly all are.
local args = require("lib.args")
local bands = require("lib.bands")
local clock = require("lib.clock")
local delivering = require("lib.delivering")
local limits = require("lib.limits")
local outage = require("lib.outage")
local receipts = require("lib.receipts")

local M = {}
local FIXED, SMALL = 8, limits.SMALL

-- One queue as it is read. Mostly nothing in it falls due: `has_due` says when something may.
local function open(q, width, steps, lease, renew, now)
  local at, sizes, left, changes = (q - 1) * width, {}, 0, {}
  for step = 1, steps do
    local size = redis.call("LLEN", KEYS[at + FIXED + step])
    sizes[step], left = size, left + size
  end
  local unacked, delayed = KEYS[at + 1], KEYS[at + 3]
  local in_unacked, in_delayed = redis.call("ZCARD", unacked), redis.call("ZCARD", delayed)
  local set = redis.call(
    "HMGET", KEYS[at + 7], "paused", "seen", "grace", "renew", "largest", "steps", "renewals", "had_grace", "quiet")
  local ended, longest, is_back = outage.look(set[2], set[3], set[4], set[7], set[8], renew, now, changes)
  local known_largest, known_steps = tonumber(set[5]) or 0, tonumber(set[6]) or 0
  if known_steps < steps then
    changes[#changes + 1], changes[#changes + 2], known_steps = "steps", steps, steps
  end
  redis.call("XLEN", KEYS[at + 5])
  local this = {
    at = at, index = q, sizes = sizes, left = left, in_unacked = in_unacked, in_delayed = in_delayed, ended = ended,
    tokens = redis.call("LLEN", KEYS[at + 6]), paused = set[1] == "1", steps = known_steps,
    largest = math.max(SMALL, known_largest), known_largest = known_largest, changes = changes, delivered = 0,
    acked = 0,
  }
  redis.call("HLEN", KEYS[at + 8])
  if in_delayed > 0 then
    redis.call("HLEN", KEYS[at + 4])
  end
  if is_back then
    this.ahead = outage.heal(unacked, known_steps, now + math.max(lease, 3 * longest), now, changes)
  end
  if in_unacked > 0 and (bands.has_due(unacked, ended) or bands.past_first_step(unacked)) then
    this.has_due = true
  end
  outage.rest(unacked, this.has_due or is_back, set[9], lease, now, changes)
  if in_delayed > 0 and (bands.has_due(delayed, now) or known_steps > 1 and bands.past_first_step(delayed)) then
    this.has_due = true
  end
  return this
end

-- Into the answer: the dead letters that this claim made. The keys of their results are not among its own, so it is for
-- the claimer to `tell` who waits for them. Which they are is kept for a retry.
local function report(this, call, claim_id)
  local dead = require("lib.dead")
  if this.deaths then
    delivering.change(this, "deaths", claim_id .. " " .. this.first_death .. " " .. this.last_death)
  end
  local entries = redis.call("XRANGE", KEYS[this.at + 5], this.first_death, this.last_death)
  local out = call.dead_lettered or {}
  call.dead_lettered = out
  for i = 1, #entries do
    local letter, n = dead.fields(entries[i]), #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = this.index, letter.reason, letter.detail, letter.message
  end
end

-- Write down what became of a queue, and leave a token where somebody should claim again. Answers whether it has more.
local function close(this, call, claim_id, consumer)
  local at, changes, wake = this.at, this.changes, false
  -- Everything that grows is written by this: a claim that took nothing frees first, so that full memory allows it.
  local function grow(command, key, ...)
    if not call.freed then
      redis.call("DEL", KEYS[at + 6])
      this.tokens, call.freed = 0, true
    end
    redis.call(command, KEYS[at + key], ...)
  end
  local function count(name, n)
    if n and n > 0 then
      grow("HINCRBY", 8, name, n)
    end
  end

  if not this.paused then
    wake = this.left > 0 or this.parked ~= nil
    if not wake and (this.has_due or this.in_delayed > 0) then
      local recovery = require("lib.recovery")
      wake = recovery.more(this, call, consumer)
    end
  end
  if this.first_death then
    report(this, call, claim_id)
  end
  count("delivered", this.delivered)
  count("acked", this.acked)
  count("expired", this.redelivered)
  count("dead", this.deaths)
  if this.largest > this.known_largest then
    delivering.change(this, "largest", this.largest)
  end
  if #changes > 0 then
    grow("HSET", 7, unpack(changes))
  end
  if this.ahead and #this.ahead > 0 then
    grow("ZADD", 1, "XX", unpack(this.ahead))
  end
  if wake and this.tokens == 0 then
    grow("RPUSH", 6, "1")
  elseif not wake and this.tokens > 0 then
    redis.call("DEL", KEYS[at + 6])
  end
  return wake == true
end

-- `missing`: the acks were carried out, and these found nothing.
function M.run(missing)
  local claim_id, attempt = args.text("claim_id", 96), args.int("attempt", 0, 9)
  local limit, lease = args.int("limit", 0, 1000), args.int("lease_ms", 1, limits.LONGEST_MS)
  local renew, max_deliveries = args.int("renew_ms", 1, limits.LONGEST_MS), args.int("max_deliveries", 0, limits.MOST)
  local max_bytes, steps = args.int("max_bytes", 1, limits.MOST_BYTES), args.int("steps", 1, 10)
  local company = args.int("company", 0, limits.LONGEST_MS)
  local consumer, now = string.match(claim_id, "^(.+)%-%d+$"), clock.now()
  local width = FIXED + steps
  local queues = #KEYS / width
  if queues % 1 ~= 0 or queues < 1 then
    return redis.error_reply("BADARG KEYS: " .. #KEYS .. " is not a multiple of " .. width)
  elseif not consumer then
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
  local opened, names, is_repeated = {}, nil, attempt > 0
  local function look()
    local leased, available = 0, 0
    for q = 1, queues do
      local this = open(q, width, steps, lease, renew, now)
      opened[q], leased = this, leased + this.in_unacked
      available = available + this.left + this.in_unacked + this.in_delayed
    end
    names = receipts.named(claim_id, attempt, math.min(limit, available))
    local asked = leased > 0 and #names > 0 and names or { "" }
    for q = 1, queues do
      -- Nobody uses a claim id twice; if somebody does, no lease is overwritten.
      local held = redis.call("HMGET", KEYS[opened[q].at + 2], unpack(asked))
      for i = 1, #asked do
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

  local call = {
    limit = limit, lease = lease, max_deliveries = max_deliveries, max_bytes = max_bytes, steps = steps, now = now,
    receipts = names, held = {}, scores = {}, out = { "" }, count = 0, bytes = 0, aside = 0, freed = false,
    company = company, drain = 0, id = claim_id .. "." .. attempt, runs = {}, attempt = attempt,
  }
  local lost_acks = missing or ""
  for q = 1, missing and 0 or queues do
    local this, these = opened[q], acks[q]
    if #these > 0 then
      local lost = receipts.ack(KEYS[this.at + 1], KEYS[this.at + 2], these)
      this.acked, call.freed = #these - #lost, true
      for i = 1, #lost do
        lost_acks = lost_acks .. " " .. q .. " " .. lost[i]
      end
    end
  end

  local is_replayed = false
  if is_repeated then
    local replay = require("lib.replay")
    is_replayed = replay.all(opened, call, claim_id, attempt)
  end
  for step = 1, is_replayed and 0 or steps do
    for q = 1, queues do
      local this = opened[q]
      if not this.paused then
        if this.has_due then
          local recovery = require("lib.recovery")
          recovery.take(this, call, step)
        end
        delivering.pop(this, call, step)
      end
    end
  end

  if not is_replayed and company == 0 and call.count == 1 then
    delivering.alone(call)
  end
  local more, mores = "", 0
  for q = 1, queues do
    if close(opened[q], call, claim_id, consumer) then
      more, mores = more .. " " .. q, mores + 1
    end
  end
  local wait = call.next_due and math.max(0, call.next_due - now) or -1
  local runs = #call.runs == 0 and " 0" or " " .. #call.runs / 4 .. " " .. table.concat(call.runs, " ")
  call.out[1] = now .. " " .. wait .. " " .. string.format("%.0f", call.drain) .. " " .. mores .. more .. " "
    .. call.attempt .. runs .. lost_acks
  call.out[#call.out + 1] = call.dead_lettered
  return call.out
end

return M
