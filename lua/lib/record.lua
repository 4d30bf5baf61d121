-- A record is `<deliveries> <step> <ms> ` in front of the message: what a lease or a delay has to know, without
-- reading the message.
local M = {}

-- A count as text. Most have one digit, and a format costs much.
function M.text(n)
  return n < 10 and string.char(48 + n) or string.format("%d", n)
end

-- `ms` may be text already.
function M.header(deliveries, step, ms)
  return M.text(deliveries) .. " " .. M.text(step) .. " " .. ms .. " "
end

-- deliveries, step, ms, message; nil when it is no record of ours.
function M.split(record)
  local _, stop, deliveries, step, ms = string.find(record, "^(%d+) (%d+) (%d+) ")
  if not stop or #deliveries > 9 or #step > 2 or #ms > 15 then
    return nil
  end
  return tonumber(deliveries), tonumber(step), tonumber(ms), string.sub(record, stop + 1)
end

-- Deliveries, and how long the header is; nil when it is no record of ours.
function M.header_of(record)
  local deliveries, _, _, message = M.split(record)
  return deliveries, deliveries and #record - #message
end

return M
