-- A message is JSON that is never decoded here. What the engine has to say stands at its very head, as members that
-- any JSON reader skips: {"x-deliveries":2,"x-expires":1790000000000,"x-spared":1,"body":...
-- Spared are the deliveries that ended unsettled while their consumer held others: they count as deliveries, and
-- not as failures of this message.
local limits = require("lib.limits")
local shape = require("lib.shape")

local M = { fronts = {} } -- a number costs much to write, and mostly all are alike

local MOST_DELIVERIES, LAST_MS = 99999999, limits.LAST_MS -- what a record's header and a band can hold

-- A member at the head, and where it ends. Any program may have written it: what is no number counts as 0. `initial` is
-- the first byte of the name behind "x-, for most heads have one member, and a search costs much.
local function member(message, initial, pattern, at, most)
  if string.byte(message, at + 3) ~= initial then
    return 0, at
  end
  local _, stop, value = string.find(message, pattern, at)
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
  local deliveries, after = member(message, 100, '^"x%-deliveries": ?"?([%w.+-]*)"?, ?', 2, MOST_DELIVERIES)
  local expires, further = member(message, 101, '^"x%-expires": ?"?([%w.+-]*)"?, ?', after, LAST_MS)
  local spared, rest = member(message, 115, '^"x%-spared": ?"?([%w.+-]*)"?, ?', further, MOST_DELIVERIES)
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

-- What the engine says of a message, in a form in which others can be held against it.
function M.said(message, deliveries)
  local before, expires, rest, spared = M.head(message)
  return {
    deliveries = deliveries or before, expires = expires, spared = spared,
    may_be_tracked = string.byte(message, rest + 1) == 120, -- "x-..., see lib/tracking
  }
end

-- With which a message that has no head begins, if it was spared so often.
function M.front(spared)
  M.fronts[spared] = M.fronts[spared] or '{"x-spared":' .. spared .. ","
  return M.fronts[spared]
end

-- As it is kept in a record, which knows the deliveries.
function M.spare(message, spared)
  if spared > 0 and string.byte(message, 3) ~= 120 then -- it has no head: not "x-...
    return M.front(spared) .. string.sub(message, 2)
  end
  local deliveries, expires, _, was = M.head(message)
  return was == spared and message or M.with(message, deliveries, expires, spared)
end

return M
