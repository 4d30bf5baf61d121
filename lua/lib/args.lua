-- ARGV, read in order. The first thing that is wrong is kept in `fault`; a script asks for it before it writes.
local M = { at = 0, fault = false }
local find = string.find

function M.refuse(name, given, wanted)
  if not M.fault then
    M.fault = "BADARG " .. name .. ": " .. string.sub(tostring(given), 1, 64) .. " is not " .. wanted
  end
end

function M.text(name, max)
  M.at = M.at + 1
  local given = ARGV[M.at]
  if not given or #given > max then
    M.refuse(name, given and (#given .. " bytes"), "text of at most " .. max .. " bytes")
    return ""
  end
  return given
end

-- A whole number, or `min` when it is not one: callers may compute with it until they ask for `fault`.
function M.int(name, min, max)
  local at = M.at + 1
  M.at = at
  local given = ARGV[at]
  local n = given and not find(given, "%D") and tonumber(given)
  if not n or n < min or n > max then
    M.refuse(name, given, string.format("a whole number from %.0f to %.0f", min, max))
    return min
  end
  return n
end

-- A count, then so many texts.
function M.group(name, max)
  local n = M.int(name, 0, max)
  local at, given = M.at, {}
  for i = 1, n do
    given[i] = ARGV[at + i]
  end
  M.at = at + n
  if M.at > #ARGV then
    M.refuse(name, #given, "what the count before it says")
  end
  return given
end

-- How many arguments are left, as items of `width` each; at most `max` items.
function M.items(name, width, max)
  local n = (#ARGV - M.at) / width
  if n % 1 ~= 0 or n > max then
    M.refuse(name, #ARGV - M.at, "at most " .. max .. " items of " .. width)
    return 0
  end
  return n
end

-- To be asked when everything was read.
function M.done()
  if M.at < #ARGV then
    M.refuse("ARGV", #ARGV, "the number of arguments this script takes: " .. M.at)
  end
  return M.fault
end

function M.keys(fixed, min, max)
  local n = #KEYS - fixed
  if n < min or n > max then
    M.refuse("KEYS", #KEYS, string.format("from %.0f to %.0f keys", fixed + min, fixed + max))
  end
  return n
end

return M
