-- When the server was away, living holders could not renew: what looks expired may well be held. The gap shows in
-- `seen`, which every claim and extend moves on. A gap longer than 1.5 renewals of the holder that renews most often
-- begins a grace of one renewal of the holder that renews most rarely. Until it ends nothing is taken from its holder,
-- except leases that have had a whole grace before. Half a lease is the shortest gap that cannot be mistaken for the
-- time between two renewals that came in time.
--
-- Which periods are in use is a present state: those heard of in this window or in the one before. `renew` is the
-- longest of this window; `renewals` says `<shortest> <shortest before> <longest before> <end of the window>`. The
-- first release knows only `renew`, and raises it: that is heard here too.
local M = { RESOLUTION = 250 } -- ms; `seen` and `quiet` are written no more often than that
local WAIT = 1500 -- ms; a waiting consumer claims once in 1.2 s, so a shorter gap is no outage, however short the lease
local WINDOW = 60000 -- ms; or three of the longest periods: every living holder is heard of in each
local MOST = 1000 -- leases set right in one claim

local function set(changes, name, value)
  changes[#changes + 1], changes[#changes + 2] = name, value
end

-- Need a look that finds nothing write nothing either? `seen` may be older then than a claim leaves it, by a quarter of
-- the shortest period that is in use: so no gap is taken for an outage that is none.
function M.is_noted(seen, grace, longest, renewals, renew, now)
  local short, before = string.match(renewals or "", "^(%d+) (%d+) ")
  if not short or (tonumber(grace) or 0) > now or renew < tonumber(short) or renew > (tonumber(longest) or 0) then
    return false
  end
  local since = now - (tonumber(seen) or 0)
  return since >= 0 and since <= math.max(M.RESOLUTION, math.min(short, before) / 4)
end

-- Fields of `meta` as read: seen, grace, renew, renewals, had_grace. Adds what is to be written to `changes`. Answers
-- before when a lease must have ended to be taken; the longest period; whether the clock was set back. In the last
-- case `seen` stays: that is for `heal`.
function M.look(seen, grace, longest, renewals, had, renew, now, changes)
  seen, grace, had, longest = tonumber(seen), tonumber(grace) or 0, tonumber(had) or 0, tonumber(longest)
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
  elseif not seen or now - seen > M.RESOLUTION then
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

-- Keeps `quiet`: a plain claim before that moment need not look whether a lease has ended, nor write `seen`. Leases
-- that are there end later, and one given or renewed meanwhile for less time than that takes it back. The first release
-- does not: what it gives for less than 250 ms is taken so much later. `has_due`: something may be taken now. `steps`:
-- the last step of which a lease may be there.
function M.rest(unacked, has_due, steps, quiet, lease, now, changes)
  quiet = tonumber(quiet) or 0
  if has_due or lease < M.RESOLUTION then
    if quiet > now then
      set(changes, "quiet", 0)
    end
  elseif quiet <= now or quiet > now + M.RESOLUTION then
    local bands = require("lib.bands")
    local ends = bands.due(unacked, now + M.RESOLUTION) > 0
    if steps > 1 and not ends then
      local due = require("lib.due")
      ends = bands.apart(unacked) > 0 or due.is_any(nil, unacked, steps, 1, now + M.RESOLUTION)
    end
    if not ends then
      set(changes, "quiet", now + M.RESOLUTION)
      set(changes, "seen", now)
    end
  end
end

-- The clock was set back: leases given before it would last for as much longer, and no consumer could take what a dead
-- holder left. Answers scores and receipts of those that end later than any lease given now; all of their holders
-- renew before their new end. Once no more are left, the time is as it was seen, and ids of calls take their turn.
function M.heal(unacked, steps, latest, now, changes)
  local bands = require("lib.bands")
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
    set(changes, "seen", now)
    set(changes, "calls_turn", math.floor(now / 1000))
  end
  return ahead
end

return M
