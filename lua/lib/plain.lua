-- A plain claim: of one queue in which nothing falls due, of messages of one step of which no more is said than that
-- they are tracked. Nearly every claim is one. What is here runs for every task there is: it calls nothing that can be
-- done without, and its functions share no variable with the script, for each costs the server as much as an argument
-- of a command. Anything else, and be it a fault, is for lib/claiming.
local limits = require("lib.limits")

local M = {}

-- Reads what there is, into `this`; fails where a key is of another type or a number is none. That no lease has ended
-- it knows from `quiet`, or there is none. Of what is delayed counts what goes before; anything, where the first step
-- has nothing ready. Behind the last message another consumer has to keep the time of the next, if none does.
--
-- `is_sound`: the arguments are. `take`: so many messages of the list `ready` of a `step`, and `left` of them
-- afterwards; `largest`: bytes of a message. `has_token`: a token is there. And now and then: `is_idle`: there is
-- nothing to take; `timer_at`: another consumer has to keep the time; `has_rested`: nothing is held, which the next
-- need not look for; `size`, `due`, `there`: messages of the first list, messages due, how many other keys there are
-- if that list is empty.
function M.look(this, now)
  local claim_id, attempt, limit, lease, renew, deliveries, max_bytes, steps, company, _, count = unpack(ARGV, 1, 11)
  local acks, ms = #ARGV - 11, now + 0
  -- Arithmetic takes 1e2 and 0x10 as well.
  if not string.find(limit .. lease .. deliveries .. max_bytes .. company .. count, "^%d*$") then
    return
  end
  limit, lease, max_bytes = limit + 0, lease + 0, max_bytes + 0
  this.is_sound = attempt == "0" and count + 0 == acks and acks <= 1000 and #claim_id <= 96 and limit >= 1
    and limit <= 1000 and lease >= limits.RESOLUTION_MS and lease <= limits.LONGEST_MS
    and max_bytes <= limits.MOST_BYTES and #deliveries > 0 and #deliveries < 10 and #company > 0 and #company < 12
    and (#KEYS == 11 + steps or #KEYS == 12 + steps)
  if not this.is_sound then
    return
  end
  local unacked, records, delayed, _, _, tokens, meta = unpack(KEYS, 1, 7)
  local others, in_unacked, there = 0, nil, 0
  local size = redis.call("LLEN", this.ready)
  local found = size
  this.size, this.deadline = size, ms + lease
  if size == 0 then
    there = redis.call("EXISTS", unacked, delayed, tokens, unpack(KEYS, 13))
    this.there, this.due = there, there > 0 and redis.call("ZCOUNT", delayed, "-inf", now .. ".5") or 0
    if this.due > 0 then
      return
    end
  end
  local set = redis.call("HMGET", meta, "paused", "renew", "largest", "steps", "quiet")
  local rest = set[5] and set[5] - ms or 0
  local is_quiet = rest > 0 and rest <= limits.RESOLUTION_MS
  if set[1] == "1" or set[2] ~= renew or set[4] ~= steps then
    return
  elseif size == 0 then
    in_unacked = there > 0 and redis.call("ZCARD", unacked) or 0
    if not is_quiet and in_unacked + acks > 0 then
      return
    end
    local besides, first = in_unacked > 0 and there - 1 or there, 1
    local later = besides > 0 and redis.call("ZCARD", delayed) or 0
    this.has_token = besides > 0 and redis.call("LLEN", tokens) > 0
    if besides == (later > 0 and 1 or 0) + (this.has_token and 1 or 0) then
      local idle = require("lib.idle")
      this.is_idle = idle.is_idle(now, acks, is_quiet, later, this.has_token)
      return
    elseif later > 0 then
      return
    end
    while found == 0 do
      first = first + 1
      found = redis.call("LLEN", KEYS[11 + first])
    end
    this.ready, this.step = KEYS[11 + first], first < 10 and string.char(48 + first) or "10"
    this.deadline = this.deadline + (first - 1) * limits.BAND
  end
  if not is_quiet and (in_unacked or redis.call("ZCARD", unacked)) == 0 then
    local noted = require("lib.noted")
    local known = redis.call("HMGET", meta, "seen", "grace", "renew", "renewals", "cancels")
    is_quiet = noted.is_recent(known[1], known[2], known[3], known[4], renew + 0, ms)
      and (tonumber(known[5]) or 0) <= ms
    this.has_rested = is_quiet
  end
  local left = found - limit
  this.left, this.largest = left, set[3] and set[3] + 0 or max_bytes
  if not is_quiet or this.largest * limit > max_bytes then
    return
  elseif left > 0 then
    others = size > 0 and redis.call("ZCOUNT", delayed, "-inf", now .. ".5") or 0
  else
    for later = this.step + 1, steps + 0 do
      others = others + redis.call("LLEN", KEYS[11 + later])
    end
    local later = size > 0 and redis.call("ZCARD", delayed) or 0
    if later > 0 and others == 0 then
      local timer = require("lib.timer")
      local is_kept = timer.is_kept(later, now)
      others, this.timer_at = is_kept == nil and 1 or 0, not is_kept and timer.at or false
    end
  end
  if size > 0 and others == 0 then
    this.has_token = redis.call("LLEN", tokens) > 0
  end
  if acks > 1 then -- those go first then: their keys are looked at
    redis.call("HLEN", records)
    redis.call("ZCARD", unacked)
  end
  this.take = others > 0 and 0 or left < 0 and found or limit
end

-- Acks. Answers, as text, what found nothing; and the ids of those that were tracked, if there are any.
function M.settle(acks)
  local unacked, records, ended = KEYS[1], KEYS[2], nil
  local lost, text = 0, ""
  if not string.find(ARGV[#ARGV], " ", 1, true) and redis.call("HDEL", records, unpack(ARGV, 12)) == acks then
    redis.call("ZREM", unacked, unpack(ARGV, 12))
  else
    local receipts = require("lib.receipts")
    local positions
    positions, ended = receipts.ack(unacked, records, { unpack(ARGV, 12) })
    lost, text = #positions, #positions > 0 and " 1 " .. table.concat(positions, " 1 ") or ""
  end
  if lost < acks then
    redis.call("HINCRBY", KEYS[8], "acked", acks - lost)
  end
  return text, ended
end

return M
