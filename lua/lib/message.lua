-- A message is JSON that is never decoded here. What the engine has to say stands at its very head, as members that
-- any JSON reader skips: {"x-deliveries":2,"x-expires":1790000000000,"x-spared":1,"body":...
-- Spared are the deliveries that ended unsettled while their consumer held others: they count as deliveries, and
-- not as failures of this message.
local limits = require("lib.limits")
local shape = require("lib.shape")

local M = { heads = {} } -- a number costs much to write, and mostly all are alike

local MOST_DELIVERIES, LAST_MS = 99999999, limits.LAST_MS -- what a record's header and a band can hold

-- A member at the head, and where it ends. Any program may have written it: what is no number counts as 0.
local function member(message, name, at, most)
  local _, stop, value = string.find(message, '^"x%-' .. name .. '": ?"?([%w.+-]*)"?, ?', at)
  if not stop then
    return 0, at
  end
  local n = tonumber(value) or 0
  return n > 0 and math.min(math.floor(n), most) or 0, stop + 1
end

-- Deliveries so far, expiry (server ms, 0: never), where the rest of the message begins, and how many were spared.
-- Stock Kombu writes a blank behind ":" and "," when it gives a message back.
function M.head(message)
  if string.sub(message, 3, 4) ~= "x-" then
    return 0, 0, 2, 0
  end
  local deliveries, after = member(message, "deliveries", 2, MOST_DELIVERIES)
  local expires, further = member(message, "expires", after, LAST_MS)
  local spared, rest = member(message, "spared", further, MOST_DELIVERIES)
  return deliveries, expires, rest, spared
end

function M.sound(message)
  return shape.odd({ message })[1] ~= false
end

-- The message with this head; an older head is replaced, never joined by a second one (JSON keeps the last).
function M.with(message, deliveries, expires, spared)
  local _, _, rest = M.head(message)
  local head = "{"
  if deliveries > 0 then
    head = head .. string.format('"x-deliveries":%d,', deliveries)
  end
  if expires > 0 then
    head = head .. string.format('"x-expires":%.0f,', expires)
  end
  if spared > 0 then
    head = head .. string.format('"x-spared":%d,', spared)
  end
  return head .. string.sub(message, rest)
end

-- As it goes back to a ready list, delivered so many times, and spared as often as it was unless that is given. What is
-- no message keeps its bytes.
function M.counted(message, deliveries, spared)
  local was, expires, _, was_spared = M.head(message)
  spared = math.min(spared or was_spared, deliveries)
  if was == deliveries and was_spared == spared or not M.sound(message) then
    return message
  end
  return M.with(message, deliveries, expires, spared)
end

-- As it is kept in a record, which knows the deliveries. It begins at `at` of this text, if not at its begin.
function M.spare(text, spared, at)
  at = at or 1
  if string.byte(text, at + 2) ~= 120 and spared > 0 then -- it has no head: not "x-...
    M.heads[spared] = M.heads[spared] or '{"x-spared":' .. spared .. ","
    return M.heads[spared] .. string.sub(text, at + 1)
  end
  local message = at == 1 and text or string.sub(text, at)
  local deliveries, expires, _, was = M.head(message)
  return was == spared and message or M.with(message, deliveries, expires, spared)
end

return M
