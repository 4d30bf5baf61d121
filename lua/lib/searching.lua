-- Search for a message whose id leads nowhere: among unacked, ready and dead ones, each up to `limit` messages and
-- `max_bytes`. The keys are those of `find`. What has the id as one of its values is found, and that may be all of
-- them: no message is decoded, and the one that is looked for may be the last.
local dead = require("lib.dead")
local found = require("lib.found")

local M = {}
local unacked, records, letters = KEYS[1], KEYS[2], KEYS[5]

-- How an id may be written: as text, escaped or not, or as a number.
local function forms(id, written)
  local all = { '"' .. written .. '"', '"' .. id .. '"' }
  if tonumber(id) then
    for _, before in ipairs({ ":", ": " }) do
      for _, behind in ipairs({ ",", "}", " ", "\n", "\r" }) do
        all[#all + 1] = before .. id .. behind
      end
    end
  end
  return all
end

-- What was searched is subtracted from `left`: unacked, ready, dead. The ready lists begin at KEYS[at], and `ready` has
-- their sizes.
function M.search(id, written, limit, max_bytes, ready, at, steps, left)
  local bytes, all = 0, forms(id, written)
  local function has(body)
    bytes = bytes + #body
    local is_there = string.find(body, written, 1, true) or string.find(body, id, 1, true)
    for i = 1, is_there and #all or 0 do
      if string.find(body, all[i], 1, true) then
        return true
      end
    end
    return false
  end
  local function goes_on()
    return bytes < max_bytes
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
