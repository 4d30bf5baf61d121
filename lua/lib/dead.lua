-- Dead letters: a stream, so that each has an id in the order of their death and the time in it.
local M = {}
local MOST_COUNTERS = 50 -- of a queue: a reason is any text, and may differ from letter to letter

-- Answers its id. With `call_id` the letter can be found again by it.
function M.add(dead, reason, detail, deliveries, step, message, call_id)
  if call_id then
    return redis.call("XADD", dead, "*", "reason", reason, "detail", detail, "deliveries", deliveries, "step", step,
      "message", message, "call_id", call_id)
  end
  return redis.call("XADD", dead, "*", "reason", reason, "detail", detail, "deliveries", deliveries, "step", step,
    "message", message)
end

-- Count `n` letters that died of one reason. Once there are many reasons, others are counted together. `size`: how many
-- counters the queue has, where that is known. Answers how many it has now.
function M.count(stats, n, reason, size)
  local field = "dead:" .. reason
  size = size or redis.call("HLEN", stats)
  if size >= MOST_COUNTERS and redis.call("HEXISTS", stats, field) == 0 then
    field = "dead:other"
  end
  return redis.call("HINCRBY", stats, field, n) == n and size + 1 or size
end

-- Of the letters of a queue, keep so many at most and none that died so many ms before this one: `<letters> <ms>`, each
-- 0 for no limit; "": neither. What goes is counted.
function M.bound(dead, stats, keep, id)
  local most, ms = string.match(keep, "^(%d+) (%d+)$")
  local dropped = 0
  if ms and ms ~= "0" then
    local from = string.format("%.0f", math.max(0, string.match(id, "^%d+") - ms))
    dropped = redis.call("XTRIM", dead, "MINID", from)
  end
  if most and most ~= "0" then
    dropped = dropped + redis.call("XTRIM", dead, "MAXLEN", most)
  end
  if dropped > 0 then
    redis.call("HINCRBY", stats, "dropped", dropped)
  end
end

-- A stream entry as a table by field name. One that another program wrote has no message.
function M.fields(entry)
  local by_name = { message = "", reason = "", detail = "" }
  for i = 1, #entry[2], 2 do
    by_name[entry[2][i]] = entry[2][i + 1]
  end
  return by_name
end

return M
