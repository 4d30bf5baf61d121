-- One waiting consumer keeps the time at which the next delayed message falls due, `timer_at` and `timer_by` in `meta`;
-- a token wakes the others then. Here for the short ways, behind which only delayed messages are left.
local limits = require("lib.limits")

local M = { at = 0 }

-- Does another consumer keep it? nil where the short way ends: something is due, or is not of the first step. `at` is
-- what `meta` says, and `next_due` when the next of these `later` messages falls due, if that is wanted or decides.
function M.is_kept(later, now, is_wanted)
  M.consumer = string.match(ARGV[1], "^(.+)%-%d+$")
  if not M.consumer or redis.call("ZCOUNT", KEYS[3], "(" .. now .. ".5", limits.LAST_MS) < later then
    return nil
  end
  local set = redis.call("HMGET", KEYS[7], "timer_at", "timer_by")
  M.at, M.is_own = tonumber(set[1]) or 0, set[2] == M.consumer
  local is_kept = M.at - now > 0 and not M.is_own
  if is_kept or is_wanted then
    M.next_due = math.floor(redis.call("ZRANGE", KEYS[3], 0, 0, "WITHSCORES")[2])
  end
  return is_kept and M.at <= M.next_due
end

return M
