-- `quiet` of a queue: a plain claim before that moment need not look whether a lease has ended or a message was
-- cancelled, nor write `seen`. Leases that are there end later, and one given or renewed meanwhile for less time than
-- that takes it back. The first release does not: what it gives for less than 250 ms is taken so much later.
local bands = require("lib.bands")
local limits = require("lib.limits")

local M = {}

-- `has_due`: something may be taken now, or each claim has to look. `steps`: the last step of which a lease may be
-- there.
function M.keep(unacked, has_due, steps, quiet, lease, now, changes)
  quiet = tonumber(quiet) or 0
  if has_due or lease < limits.RESOLUTION_MS then
    if quiet > now then
      changes[#changes + 1], changes[#changes + 2] = "quiet", 0
    end
  elseif quiet <= now or quiet > now + limits.RESOLUTION_MS then
    local ends = bands.due(unacked, now + limits.RESOLUTION_MS) > 0
    if steps > 1 and not ends then
      local due = require("lib.due")
      ends = bands.apart(unacked) > 0 or due.is_any(nil, unacked, steps, 1, now + limits.RESOLUTION_MS)
    end
    if not ends then
      changes[#changes + 1], changes[#changes + 2] = "quiet", now + limits.RESOLUTION_MS
      changes[#changes + 1], changes[#changes + 2] = "seen", now
    end
  end
end

return M
