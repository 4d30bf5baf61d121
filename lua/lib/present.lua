-- Which of many queues hold anything. Most hold nothing, and are met several with one command.
local M = {}
local MOST = 8 -- queues in which one command looks
local before, width, present -- keys that stand in front of those of the queues; keys of each; what is known

-- How many keys these queues have; more than there can be, where the user may not run that.
local function there(first, last)
  local many = redis.pcall("EXISTS", unpack(KEYS, before + (first - 1) * width + 1, before + last * width))
  return type(many) == "number" and many or 1000 * (last - first + 1)
end

-- How many each of these queues has, of `many` that they have together: what one half has is asked, the rest is known.
local function split(first, last, many)
  if first == last or many == 0 then
    for q = first, last do
      present[q] = many
    end
  else
    local middle = math.floor((first + last) / 2)
    local earlier = there(first, middle)
    split(first, middle, earlier)
    split(middle + 1, last, many - earlier)
  end
end

-- How many keys each queue has, of the last `keys` * `queues` that this call was given.
-- One command looks at one queue, and at twice as many each time that it finds nothing.
function M.count(queues, keys)
  before, width, present = #KEYS - keys * queues, keys, {}
  local from, at_once = 1, 1
  while from <= queues do
    local last = math.min(from + at_once - 1, queues)
    local many = there(from, last)
    split(from, last, many)
    from, at_once = last + 1, many == 0 and math.min(2 * at_once, MOST) or 1
  end
  return present
end

return M
