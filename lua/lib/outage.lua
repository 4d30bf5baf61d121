-- When the server was away, living holders could not renew: what looks expired may well be held. The gap shows in
-- `seen`, which every claim and extend moves on; after one longer than 1.5 renewal periods nothing is taken from its
-- holder for one period. Half a lease is the least that cannot be taken for two renewals that came in time.
local M = {}
local RESOLUTION = 250 -- ms; `seen` is written no more often than that
local WAIT = 1500 -- ms; a waiting consumer claims once in 1.2 s, so a shorter gap is no outage, however short the lease

-- Fields of `meta` as read; answers until when nothing expires, and adds what is to be written to `changes`.
function M.grace(seen, grace, known_renew, renew, now, changes)
  seen, grace, known_renew = tonumber(seen), tonumber(grace) or 0, tonumber(known_renew) or 0
  if renew > known_renew then
    changes[#changes + 1], changes[#changes + 2] = "renew", renew
  else
    renew = known_renew
  end
  if seen and now - seen > math.max(renew * 1.5, WAIT) then
    grace = now + renew
    changes[#changes + 1], changes[#changes + 2] = "grace", string.format("%.0f", grace)
  end
  if not seen or now < seen or now - seen > RESOLUTION then
    changes[#changes + 1], changes[#changes + 2] = "seen", string.format("%.0f", now)
  end
  return grace
end

return M
