-- A message is JSON that is never decoded here. What the engine has to say stands at its very head, as members that
-- any JSON reader skips: {"x-deliveries":2,"x-expires":1790000000000,"body":...
local M = {}

-- Kombu writes an object that begins with a member; what does not look like that is not put into a ready list.
function M.sound(message)
  local brace, quote = string.byte(message, 1, 2)
  return brace == 123 and quote == 34
end

-- Deliveries so far, expiry (server ms, 0: never), and where the rest of the message begins.
-- Stock Kombu writes a blank behind ":" and "," when it gives a message back.
function M.head(message)
  local deliveries, expires, rest = 0, 0, 2
  if string.sub(message, 3, 4) == "x-" then
    local _, stop, n = string.find(message, '^"x%-deliveries": ?(%d+), ?', rest)
    if stop and #n < 10 then
      deliveries, rest = tonumber(n), stop + 1
    end
    _, stop, n = string.find(message, '^"x%-expires": ?(%d+), ?', rest)
    if stop and #n < 16 then
      expires, rest = tonumber(n), stop + 1
    end
  end
  return deliveries, expires, rest
end

-- The message with this head; an older head is replaced, never joined by a second one (JSON keeps the last).
function M.with(message, deliveries, expires)
  local _, _, rest = M.head(message)
  local head = "{"
  if deliveries > 0 then
    head = head .. string.format('"x-deliveries":%d,', deliveries)
  end
  if expires > 0 then
    head = head .. string.format('"x-expires":%.0f,', expires)
  end
  return head .. string.sub(message, rest)
end

-- As it goes back to a ready list, delivered so many times.
function M.counted(message, deliveries)
  local was, expires = M.head(message)
  if was == deliveries then
    return message
  end
  return M.with(message, deliveries, expires)
end

return M
