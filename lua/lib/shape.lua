-- What a message looks like from outside: Kombu writes a JSON object that begins with a member, and nothing else is put
-- into a ready list.
local M = {}

-- Those of these messages that are not plain, by position: what the head says, where it may say something, and false
-- for what is no message. Answers the largest size as well.
function M.odd(messages)
  local odd, largest, byte = {}, 0, string.byte
  for i = 1, #messages do
    local this = messages[i]
    local brace, quote, first = byte(this, 1, 3)
    if brace ~= 123 or quote ~= 34 then
      odd[i] = false
    elseif first == 120 then -- may be "x-...
      local message = require("lib.message")
      odd[i] = message.said(this)
    end
    if #this > largest then
      largest = #this
    end
  end
  return odd, largest
end

return M
