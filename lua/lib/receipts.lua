-- Receipts: <consumer>-<counter>.<attempt>.<i>. One is live while its record is there, also past its deadline.
local M = {}

function M.named(claim_id, attempt, n)
  local names, front = {}, claim_id .. "." .. attempt .. "."
  for i = 1, n do
    names[i] = front .. i
  end
  return names
end

-- Which of these are live: their scores, false for the others. One that is named twice is live once.
function M.scores(unacked, receipts)
  if #receipts == 0 then
    return {}
  end
  local scores, seen = redis.call("ZMSCORE", unacked, unpack(receipts)), {}
  for i = 1, #receipts do
    if seen[receipts[i]] then
      scores[i] = false
    end
    seen[receipts[i]] = true
  end
  return scores
end

-- Take the live ones out of `unacked` and `records`; answers the positions of those that are not live. Nearly always
-- all are: only when fewer were there than named (one may be named twice) is each asked for by itself. Of tracked
-- messages, which are the last, a blank and the id stand behind the receipt: their ids are answered too, or nil.
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
  if redis.call("HDEL", records, unpack(receipts)) == #receipts then
    redis.call("ZREM", unacked, unpack(receipts))
  else
    for i = 1, #receipts do
      if redis.call("ZREM", unacked, receipts[i]) == 0 then
        lost[#lost + 1] = i
      end
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

-- Take one message out, as its record: for verbs that move it on. The first of these calls frees memory.
function M.remove(unacked, records, receipt)
  local held = redis.call("HGET", records, receipt)
  redis.call("ZREM", unacked, receipt)
  redis.call("HDEL", records, receipt)
  return held
end

return M
