-- Dead letters: a stream, so that each has an id in the order of their death and the time in it.
local M = {}

-- Answers its id. With `call_id` the letter can be found again by it.
function M.add(dead, reason, detail, deliveries, step, message, call_id)
  if call_id then
    return redis.call("XADD", dead, "*", "reason", reason, "detail", detail, "deliveries", deliveries, "step", step,
      "message", message, "call_id", call_id)
  end
  return redis.call("XADD", dead, "*", "reason", reason, "detail", detail, "deliveries", deliveries, "step", step,
    "message", message)
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
