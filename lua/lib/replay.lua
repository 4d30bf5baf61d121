-- A claim that is sent again is answered with the leases that it has, unchanged, and with the dead letters it made. It
-- has no room for anything else: what is there by now is left to other claims, as behind a claim that is full.
local delivering = require("lib.delivering")
local receipts = require("lib.receipts")
local record = require("lib.record")

local M = {}

local function of(this, call, names)
  local held, found = redis.call("HMGET", KEYS[this.at + 2], unpack(names)), false
  for i = 1, #names do
    if held[i] then
      local deliveries, step, _, body = record.split(held[i])
      local out, n = call.out, #call.out
      out[n + 1], out[n + 2] = names[i], body
      delivering.add_run(this, call, deliveries, step, 1)
      call.attempt, found = -1, true
    end
  end
  return found
end

-- The dead letters of earlier attempts, unless another claim has made some since; whether there were any.
local function deaths(this, claim_id)
  local known, by = redis.call("HGET", KEYS[this.at + 7], "deaths") or "", claim_id .. " "
  local first, last = string.match(known, "^(%d+%-%d+) (%d+%-%d+)$", #by + 1)
  if not first or string.sub(known, 1, #by) ~= by then
    return false
  end
  this.first_death, this.last_death = first, last
  return true
end

-- All live leases and dead letters of this and earlier attempts, into the answer. Are there any, nothing is taken.
function M.all(opened, call, claim_id, last)
  local found = false
  for q = 1, #opened do
    found = deaths(opened[q], claim_id) or found
  end
  for attempt = 0, last do
    local names = attempt < last and receipts.named(claim_id .. "." .. attempt, call.limit) or call.receipts
    for q = 1, #names > 0 and #opened or 0 do
      found = of(opened[q], call, names) or found
    end
  end
  if found then
    call.limit = 0
  end
end

return M
