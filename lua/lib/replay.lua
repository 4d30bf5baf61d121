-- A claim that is sent again is answered with the leases that it has, unchanged.
local receipts = require("lib.receipts")
local record = require("lib.record")

local M = {}

local function of(this, call, names)
  local held, found = redis.call("HMGET", KEYS[this.at + 2], unpack(names)), false
  for i = 1, #names do
    if held[i] then
      local deliveries, step, _, body = record.split(held[i])
      local out, n = call.out, #call.out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = this.index, names[i], deliveries, step, body
      found = true
    end
  end
  return found
end

-- All live leases of this and earlier attempts, into the answer; whether there were any.
function M.all(lanes, call, claim_id, last)
  local found = false
  for attempt = 0, last do
    local names = attempt < last and receipts.named(claim_id, attempt, call.limit) or call.receipts
    for q = 1, #names > 0 and #lanes or 0 do
      found = of(lanes[q], call, names) or found
    end
  end
  return found
end

return M
