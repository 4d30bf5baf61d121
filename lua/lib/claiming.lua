-- A claim in full: of several queues, of what falls due, with priorities, settings that change, and whatever may be
-- wrong. `claim` comes here when it is not one of those that nearly all are.
local args = require("lib.args")
local clock = require("lib.clock")
local delivering = require("lib.delivering")
local limits = require("lib.limits")
local receipts = require("lib.receipts")
local state = require("lib.state")

local M = {}
local FIXED = 11 -- keys of a queue before its ready lists

-- `missing`: the acks were carried out, and these found nothing; `ended` are the ids of those that were tracked.
function M.run(missing, ended)
  local claim_id, attempt = args.text("claim_id", 96), args.int("attempt", 0, 9)
  local limit, lease = args.int("limit", 0, 1000), args.int("lease_ms", 1, limits.LONGEST_MS)
  local renew, max_deliveries = args.int("renew_ms", 1, limits.LONGEST_MS), args.int("max_deliveries", 0, limits.MOST)
  local max_bytes, steps = args.int("max_bytes", 1, limits.MOST_BYTES), args.int("steps", 1, 10)
  local company, keep = args.int("company", 0, limits.LONGEST_MS), args.text("keep", 32)
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

  -- All reads. A key of another type is answered before anything is written.
  local opened, names, is_repeated = {}, nil, attempt > 0
  local function look()
    local leased, available = 0, 0
    for q = 1, queues do
      local this = state.read(q, width, steps, lease, renew, now)
      opened[q], leased = this, leased + this.in_unacked
      available = available + this.left + this.in_unacked + this.in_delayed
    end
    names = receipts.named(claim_id, attempt, math.min(limit, available))
    for q = 1, queues do
      -- A claim id is used once. If a consumer uses one twice, no lease is overwritten.
      if leased == 0 or #names == 0 then
        redis.call("HLEN", KEYS[opened[q].at + 2])
      else
        local held = redis.call("HMGET", KEYS[opened[q].at + 2], unpack(names))
        for i = 1, #names do
          is_repeated = is_repeated or held[i] ~= false
        end
      end
    end
  end
  local is_sound, fault = pcall(look)
  if is_sound and keep ~= "" then
    local guard = require("lib.guard")
    for q = 1, queues do
      guard.trim(KEYS[opened[q].at + 5], keep)
    end
    if guard.fault then
      return redis.error_reply(guard.fault)
    end
  end
  if not is_sound then
    local guard = require("lib.guard")
    local kinds = { "zset", "hash", "zset", "hash", "stream", "list", "hash", "hash", "hash", "hash", "hash" }
    return redis.error_reply(guard.blame(fault, width, unpack(kinds)))
  end

  local call = {
    limit = limit, lease = lease, max_deliveries = max_deliveries, max_bytes = max_bytes, steps = steps, now = now,
    receipts = names, held = {}, scores = {}, out = { "" }, count = 0, bytes = 0, aside = 0, freed = false,
    company = company, drain = 0, id = claim_id .. "." .. attempt, runs = {}, attempt = attempt, keep = keep,
    us = clock.us, is_sole = company == 0 and limit == 1, -- what it hands out goes alone: see lib/bands
  }
  local lost_acks = missing or ""
  for q = 1, missing and 0 or queues do
    local this, these = opened[q], acks[q]
    if #these > 0 then
      local lost, gone = receipts.ack(KEYS[this.at + 1], KEYS[this.at + 2], these)
      this.acked, call.freed, this.ended_ids = #these - #lost, true, gone
      for i = 1, #lost do
        lost_acks = lost_acks .. " " .. q .. " " .. lost[i]
      end
    end
  end

  if ended then
    opened[1].ended_ids = ended
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

  if not is_replayed and company == 0 and call.count == 1 and not call.is_sole then
    delivering.alone(call)
  end
  local more, mores = "", 0
  for q = 1, queues do
    if state.write(opened[q], call, claim_id, consumer) then
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
