-- The short way of a claim of one queue that has nothing to hand out: its consumer has worked it off, or polls.
local noted = require("lib.noted")

local M = { has_token = false, keeps_time = false }

-- Reads. Is there nothing, and nothing to note but acks and the time of what is delayed? `is_quiet`: no lease has
-- ended; else none is held. `later`: how many are delayed.
function M.is_idle(now, acks, is_quiet, later, has_token)
  if acks > 0 and string.find(ARGV[#ARGV], " ", 1, true) then -- of a tracked message
    return false
  elseif not is_quiet then
    local set = redis.call("HMGET", KEYS[7], "seen", "grace", "renew", "renewals")
    if not noted.is_recent(set[1], set[2], set[3], set[4], tonumber(ARGV[5]), tonumber(now)) then
      return false
    end
  end
  M.has_token = has_token
  if later > 0 then
    local timer = require("lib.timer")
    local is_kept = timer.is_kept(later, now, true)
    if is_kept == nil then
      return false
    end
    M.keeps_time = not is_kept
  end
  if acks > 0 then
    redis.call("HLEN", KEYS[2])
    redis.call("ZCARD", KEYS[1])
    redis.call("HLEN", KEYS[8])
  end
  return true
end

-- Writes. Answers what the claim does, but for its acks.
function M.answer(now)
  local wait = -1
  if M.keeps_time then
    local timer = require("lib.timer")
    wait = timer.next_due - now
    if timer.at ~= timer.next_due or not timer.is_own then
      redis.call("DEL", KEYS[6]) -- it frees, and so what grows is allowed at full memory
      redis.call("HSET", KEYS[7], "timer_at", string.format("%.0f", timer.next_due), "timer_by", timer.consumer)
      M.has_token = false
    end
  end
  if M.has_token then
    redis.call("DEL", KEYS[6])
  end
  return now .. " " .. wait .. " 0 0 0 0"
end

return M
