-- A record of stock Kombu in `unacked`: [message, exchange, routing key]. It is read from its end, by plain search, for
-- any program may have written what it holds: names of at most 4 KiB each, and the last priority within 8 KiB.
local M = {}
local NAME, TAIL, TRIES = 4096, 8192, 8 -- bytes of a name; of a message where its priority is looked for; how often
local byte, sub = string.byte, string.sub

-- Where the JSON string begins that ends with the quote at `last`: a quote behind an even number of backslashes.
local function opening(text, last)
  local quote
  for i = last - 1, math.max(1, last - NAME), -1 do
    local this = byte(text, i)
    if quote and this ~= 92 then
      if (quote - i) % 2 == 1 then
        return quote
      end
      quote = nil
    end
    if this == 34 then
      quote = i
    end
  end
end

-- The end of what stands before this member of a list.
local function before(text, at)
  local comma = at and byte(text, at - 1) == 32 and at - 2 or at and at - 1
  return comma and byte(text, comma) == 44 and comma - 1 or nil
end

-- Where the message ends, exchange and routing key; nil if it is no record of stock.
function M.parts(held)
  if sub(held, 1, 1) ~= "[" or sub(held, -2) ~= '"]' then
    return nil
  end
  local routing_key = opening(held, #held - 1)
  local exchange_end = before(held, routing_key)
  local exchange = exchange_end and byte(held, exchange_end) == 34 and opening(held, exchange_end)
  local body_end = before(held, exchange)
  if body_end then
    return body_end, sub(held, exchange, exchange_end), sub(held, routing_key, -2)
  end
end

-- As stock has it: 0 to 9.
function M.priority(held, body_end)
  local tail = string.reverse(sub(held, math.max(2, body_end - TAIL), body_end))
  local at = 0
  for _ = 1, TRIES do
    at = string.find(tail, ':"ytiroirp"', at + 1, true)
    if not at then
      break
    end
    local value = string.match(string.reverse(sub(tail, math.max(1, at - 12), at - 1)), "^ ?(%d+)[,}]")
    if value then
      return math.min(tonumber(value), 9)
    end
  end
  return 0
end

return M
