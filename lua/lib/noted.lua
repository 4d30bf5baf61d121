-- The short way of lib/outage, for a claim or a look that finds nothing.
local limits = require("lib.limits")

local M = {}

-- Need a look that finds nothing write nothing either? `seen` may be older then than a claim leaves it, by a quarter of
-- the shortest period that is in use: so no gap is taken for an outage that is none.
function M.is_recent(seen, grace, longest, renewals, renew, now)
  local short, before = string.match(renewals or "", "^(%d+) (%d+) ")
  if not short or (tonumber(grace) or 0) > now or renew < tonumber(short) or renew > (tonumber(longest) or 0) then
    return false
  end
  local since = now - (tonumber(seen) or 0)
  return since >= 0 and since <= math.max(limits.RESOLUTION_MS, math.min(short, before) / 4)
end

return M
