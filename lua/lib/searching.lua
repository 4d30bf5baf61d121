-- Search for a message whose id leads nowhere: among unacked, ready and dead ones, each up to `limit` messages and
-- `max_bytes`. The keys are those of `find`.
local dead = require("lib.dead")
local found = require("lib.found")

local M = {}
local unacked, records, letters = KEYS[1], KEYS[2], KEYS[5]
local MOST = 80 -- values that were found: ten messages

-- What was searched is subtracted from `left`: unacked, ready, dead. The ready lists begin at KEYS[at], and `ready` has
-- their sizes.
function M.search(id, written, limit, max_bytes, ready, at, steps, left)
  local bytes = 0
  local function has(body)
    bytes = bytes + #body
    return string.find(body, written, 1, true) or string.find(body, id, 1, true)
  end
  local function goes_on()
    return bytes < max_bytes and #found.values < MOST
  end

  for _, receipt in ipairs(redis.call("ZRANGE", unacked, 0, limit - 1)) do
    if not goes_on() then
      break
    end
    local held = redis.call("HGET", records, receipt) or ""
    left[1] = left[1] - 1
    if has(held) then
      found.held(receipt, redis.call("ZSCORE", unacked, receipt), held, false)
    end
  end

  bytes = 0
  local budget = limit
  for step = 1, steps do
    for i = 0, math.min(ready[step], budget) - 1 do
      if not goes_on() then
        break
      end
      -- In turn: the next one out, and the newest.
      local place = i % 2 == 0 and -1 - i / 2 or (i - 1) / 2
      local body = redis.call("LINDEX", KEYS[at + step - 1], place)
      left[2], budget = left[2] - 1, budget - 1
      if has(body) then
        found.ready(step, body)
      end
    end
  end

  bytes = 0
  local below = "+"
  for _ = 1, limit do
    local entry = goes_on() and redis.pcall("XREVRANGE", letters, below, "-", "COUNT", 1) or {}
    if entry.err or not entry[1] then
      break
    end
    below, left[3] = "(" .. entry[1][1], left[3] - 1
    if has(dead.fields(entry[1]).message) then
      found.letter(entry[1], false)
    end
  end
end

return M
