-- A claim in full: of several queues, of what falls due, with priorities, settings that change, and whatever may be
-- wrong. `claim` comes here when it is not one of those that nearly all are.
local asked = require("lib.asked")
local delivering = require("lib.delivering")
local receipts = require("lib.receipts")
local record = require("lib.record")
local state = require("lib.state")

local M = {}
local FIXED = 11 -- keys of a queue before its ready lists
local MANY = 16 -- messages

-- All reads, into `opened`. Answers whether some receipts of this claim are held: it is sent again.
local function look(call, known, opened, queues)
  local available, is_held = 0, false
  for q = 1, queues do
    local this = state.read(q, call, known)
    opened[q] = this
    available = available + this.left + this.in_unacked + this.in_delayed
  end
  -- The last attempt may be sent again: some of what it got may be settled then.
  local names = receipts.named(call.id, call.attempt > 0 and call.limit or math.min(call.limit, available))
  call.receipts = names
  for q = 1, queues do
    -- A claim id is used once. If a consumer uses one twice, no lease is overwritten.
    if opened[q].in_unacked == 0 or #names == 0 then
      redis.call("HLEN", KEYS[opened[q].at + 2])
    else
      local held = redis.call("HMGET", KEYS[opened[q].at + 2], unpack(names))
      for i = 1, #names do
        is_held = is_held or held[i] ~= false
      end
    end
  end
  return is_held
end

-- It is `now_text` in ms, and `us` in microseconds. `known` is what `claim` has found out by itself, see lib/plain. Is
-- `missing` there, the acks were carried out and these found nothing; `ended` are the ids of those that were tracked.
function M.run(now_text, us, known)
  local call = {
    now = tonumber(now_text), now_text = now_text, us = us, held = {}, scores = {}, out = { "" }, count = 0, bytes = 0,
    aside = 0, freed = false, drain = 0, runs = {},
  }
  local wrong = asked.read(call, known.is_sound)
  if wrong then
    return redis.error_reply(wrong)
  end
  call.id = call.claim_id .. "." .. record.text(call.attempt)
  call.is_sole = call.company == 0 and call.limit == 1 -- what it hands out goes alone: see lib/bands
  local claim_id, attempt, keep, steps, queues = call.claim_id, call.attempt, call.keep, call.steps, #call.acks
  local opened, width = {}, FIXED + steps

  -- A key of another type is answered before anything is written.
  local is_readable, is_held = pcall(look, call, known, opened, queues)
  if is_readable and keep ~= "" then
    local guard = require("lib.guard")
    for q = 1, queues do
      guard.trim(KEYS[opened[q].at + 5], keep)
    end
    if guard.fault then
      return redis.error_reply(guard.fault)
    end
  end
  if not is_readable then
    local guard = require("lib.guard")
    local kinds = { "zset", "hash", "zset", "hash", "stream", "list", "hash", "hash", "hash", "hash", "hash" }
    return redis.error_reply(guard.blame(is_held, width, unpack(kinds)))
  end

  local lost_acks = known.missing or ""
  for q = 1, known.missing and 0 or queues do
    local this, these = opened[q], call.acks[q]
    if #these > 0 then
      local lost, gone = receipts.ack(KEYS[this.at + 1], KEYS[this.at + 2], these)
      this.acked, call.freed, this.ended_ids = #these - #lost, true, gone
      for i = 1, #lost do
        lost_acks = lost_acks .. " " .. q .. " " .. lost[i]
      end
    end
  end

  if known.ended then
    opened[1].ended_ids = known.ended
  end

  if is_held or attempt > 0 then
    local replay = require("lib.replay")
    replay.all(opened, call, claim_id, attempt)
  end
  for step = 1, steps do
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

  if call.company == 0 and call.count == 1 and not call.is_sole then
    redis.call("ZADD", KEYS[call.last_at + 1], "XX", call.last_score + 0.5, call.receipts[1]) -- alone: see lib/bands
  end
  local more, mores, runs = "", 0, call.runs
  for q = 1, queues do
    if state.write(opened[q], call) then
      more, mores = more .. " " .. record.text(q), mores + 1
    end
  end
  for i = 1, #runs do
    runs[i] = record.text(runs[i])
  end
  local wait = call.next_due and math.max(0, call.next_due - call.now) or "-1"
  local drain = call.drain > 0 and string.format("%.0f", call.drain) or "0"
  local at = call.attempt < 0 and "-1 " or record.text(call.attempt) .. " "
  local alike = #runs > 0 and record.text(#runs / 4) .. " " .. table.concat(runs, " ") or "0"
  call.out[1] = now_text .. " " .. wait .. " " .. drain .. " " .. record.text(mores) .. more .. " " .. at .. alike
    .. lost_acks
  call.out[#call.out + 1] = call.dead_lettered
  local collect = call.count >= MANY and rawget(_G, "collectgarbage") -- a hosted server may leave it out
  if collect then
    -- Much garbage. Lua would rest until the heap has doubled, and then one call in six would collect for all of them.
    collect("step", 0) -- begins the next turn if none is under way
  end
  if not call.dead_lettered and #call.out < 3 then
    return table.concat(call.out, "\n")
  end
  return call.out
end

return M
