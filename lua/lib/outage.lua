-- When the server was away, living holders could not renew: what looks expired may well be held. The gap shows in
-- `seen`, which every claim and extend moves on. A gap longer than 1.5 renewals of the holder that renews most often
-- begins a grace of one renewal of the holder that renews most rarely. Until it ends nothing is taken from its holder,
-- except leases that have had a whole grace before. Half a lease is the shortest gap that cannot be mistaken for the
-- time between two renewals that came in time.
--
-- Which periods are in use is a present state: those heard of in this window or in the one before. `renew` is the
-- longest of this window; `renewals` says `<shortest> <shortest before> <longest before> <end of the window>`. The
-- first release knows only `renew`, and raises it: that is heard here too.
local limits = require("lib.limits")

local M = {}
local WAIT = 1500 -- ms; a waiting consumer claims once in 1.2 s, so a shorter gap is no outage, however short the lease
local WINDOW = 60000 -- ms; or three of the longest periods: every living holder is heard of in each
local MS_DIGITS = 13 -- of a moment, from 2001 to 2286

local function set(changes, name, value)
  changes[#changes + 1], changes[#changes + 2] = name, value
end

-- Fields of `meta` as read: seen, grace, renew, renewals, had_grace. Adds what is to be written to `changes`. Answers
-- before when a lease must have ended to be taken; the longest period; whether the clock was set back. In the last
-- case `seen` stays: that is for lib/set_back.
function M.look(seen, grace, longest, renewals, had, renew, now, changes)
  seen, grace, had, longest = tonumber(seen), tonumber(grace) or 0, tonumber(had) or 0, tonumber(longest)
  local ends = renewals and longest == renew and tonumber(string.sub(renewals, -MS_DIGITS)) -- mostly all is as it was
  if ends and ends > now and ends <= now + math.max(WINDOW, 3 * renew) and grace <= now and seen and seen <= now
    and now - seen <= limits.RESOLUTION_MS then
    return now, renew, false
  end
  local this_longest, short, short_before, long_before, turn = longest or renew, nil, nil, nil, nil
  if renewals then
    short, short_before, long_before, turn = string.match(renewals, "^(%d+) (%d+) (%d+) (%d+)$")
  end
  if turn then
    short, short_before, long_before, turn =
      tonumber(short), tonumber(short_before), tonumber(long_before), tonumber(turn)
  else
    short = math.min(this_longest, renew)
    short_before, long_before, turn = short, this_longest, 0
  end
  local most = math.max(this_longest, long_before, renew)
  local least, window = math.min(short, short_before), math.max(WINDOW, 3 * most)
  local is_away, is_back = seen and now - seen > math.max(1.5 * least, WAIT), seen and now < seen

  if is_away and now < grace then
    if grace < now + least then
      grace = now + least
      set(changes, "grace", grace)
    end
  elseif is_away then
    if grace > 0 then
      had = grace - most
      set(changes, "had_grace", had)
    end
    grace = now + most
    set(changes, "grace", grace)
  elseif grace > now + most then -- by a clock that was ahead
    grace = now + most
    set(changes, "grace", grace)
  end
  if is_back then
    had = 0
    set(changes, "had_grace", 0)
  elseif not seen or now - seen > limits.RESOLUTION_MS then
    set(changes, "seen", now)
  end

  if is_away or is_back or turn == 0 or turn > now + window then
    turn, renewals = now + window, nil -- no holder could renew meanwhile
  elseif now >= turn then
    short_before, long_before, short, this_longest = short, this_longest, renew, renew
    turn, renewals = now + window, nil
  end
  if renew < short then
    short, renewals = renew, nil
  end
  if renew > this_longest then
    this_longest = renew
  end
  if this_longest ~= longest then
    set(changes, "renew", this_longest)
  end
  if not renewals then
    changes[#changes + 1], changes[#changes + 2] = "renewals",
      string.format("%.0f %.0f %.0f %.0f", short, short_before, long_before, turn)
  end
  return now < grace and math.min(had, now) or now, most, is_back
end

return M
