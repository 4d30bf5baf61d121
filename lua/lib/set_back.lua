-- What a clock that was set back leaves behind.
local bands = require("lib.bands")

local M = {}
local MOST = 1000 -- leases set right in one claim

-- The clock was set back: leases given before it would last for as much longer, and no consumer could take what a dead
-- holder left. Answers scores and receipts of those that end later than any lease given now; all of their holders
-- renew before their new end. Once no more are left, the time is as it was seen, and ids of calls take their turn.
function M.heal(unacked, steps, latest, now, changes)
  local ahead = {}
  for i = 1, 2 * steps do -- and those that wait to go alone
    local step, mark = i, ""
    if i > steps then
      step, mark = i - steps + bands.APART, ".5"
    end
    local low, left = (step - 1) * bands.SIZE, MOST - #ahead / 2
    local found = left > 0 and redis.call("ZRANGEBYSCORE", unacked, "(" .. bands.score(step, latest),
      string.format("(%.0f", low + bands.SIZE), "LIMIT", 0, left) or {}
    for j = 1, #found do
      ahead[#ahead + 1], ahead[#ahead + 2] = bands.score(step, latest) .. mark, found[j]
    end
  end
  if #ahead < 2 * MOST then
    changes[#changes + 1], changes[#changes + 2] = "seen", now
    changes[#changes + 1], changes[#changes + 2] = "calls_turn", math.floor(now / 1000)
  end
  return ahead
end

return M
