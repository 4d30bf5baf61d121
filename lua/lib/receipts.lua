-- Receipts: <consumer>-<counter>.<attempt>.<i>. One is live while its record is there, also past its deadline.
local M = {}

-- The first `n` of a claim. 12 is 1 and a 2: the server needs as long for a number as for five texts.
function M.named(claim, n)
  local names, front = {}, claim .. "."
  local digits = n > 1 and { [0] = "0", "1", "2", "3", "4", "5", "6", "7", "8", "9" } or { "1" }
  for i = 1, n do
    names[i] = (i < 10 and front or names[(i - i % 10) / 10]) .. digits[i % 10]
  end
  return names
end

-- Take the live ones out of `unacked` and `records`; answers the positions of those that are not live. Nearly always
-- all are: only when fewer were there than named (one may be named twice) is each asked for by itself, before any is
-- taken out: a key that is emptied while its slot moves is no longer this node's, even to this script. Of tracked
-- messages, which are the last, a blank and the id stand behind the receipt: their ids are answered too, or nil. If
-- `records` is of another type nothing was changed: answers nil and the error.
function M.ack(unacked, records, given)
  local lost, receipts, ids = {}, given, nil
  for i = #given, 1, -1 do
    local blank = string.find(given[i], " ", 1, true)
    if not blank then
      break
    elseif not ids then
      ids, receipts = {}, { unpack(given) }
    end
    receipts[i], ids[i] = string.sub(given[i], 1, blank - 1), string.sub(given[i], blank + 1)
  end
  local gone = redis.pcall("HDEL", records, unpack(receipts))
  if gone == #receipts then
    redis.call("ZREM", unacked, unpack(receipts))
  elseif type(gone) == "table" then
    return nil, gone
  else
    local live, known = {}, {}
    for i = 1, #receipts do
      local name = receipts[i]
      if known[name] or not redis.call("ZSCORE", unacked, name) then
        lost[#lost + 1] = i
      else
        live[#live + 1], known[name] = name, true
      end
    end
    if live[1] then
      redis.call("ZREM", unacked, unpack(live))
    end
  end
  if not ids then
    return lost
  end
  for i = 1, #lost do
    ids[lost[i]] = nil
  end
  local ended = {}
  for _, id in pairs(ids) do
    ended[#ended + 1] = id
  end
  return lost, ended
end

-- Take one message out, as its record: for verbs that move it on. The first write of these frees memory. If one of the
-- keys is of another type nothing was changed: answers nil and the error.
function M.remove(unacked, records, receipt)
  local held = redis.pcall("HGET", records, receipt)
  local fault = type(held) == "table" and held or redis.pcall("ZREM", unacked, receipt)
  if type(fault) == "table" then
    return nil, fault
  end
  redis.call("HDEL", records, receipt)
  return held
end

return M
