-- How old a message is. None is decoded: the time is looked for among the properties, which stand at its end.
local M = {}
local TAIL = 512 -- bytes
local read = 0 -- bytes so far

-- When the message that goes out next was put, as its producer's clock has it, in seconds: a text. "-1": it does not
-- say, or this call has read `max_bytes`.
function M.put_at(ready, max_bytes)
  if read >= max_bytes then
    return "-1"
  end
  local message, at = redis.call("LINDEX", ready, "-1") or "", nil
  local size = #message
  read = read + size
  local first, last = string.find(message, 'timestamp":', size > TAIL and size - TAIL or 1, true)
  while first do -- the last one is that of the properties; a search for the quote in front would stop at each quote
    if string.byte(message, first - 1) == 34 then
      at = last
    end
    first, last = string.find(message, 'timestamp":', last, true)
  end
  return at and string.match(message, "^ ?(%d+)", at + 1) or "-1"
end

return M
