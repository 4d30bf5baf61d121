-- Keys, looked at before anything is written: a read of the right type answers the size, and a key of another
-- type (or a read that this user may not run) becomes `fault`. A Lua error undoes nothing, so it must not happen late.
local M = { fault = false }

local function size(command, key)
  local n = redis.pcall(command, key)
  if type(n) == "table" then
    if not M.fault then
      local wrong = string.find(n.err, "WRONGTYPE", 1, true)
      M.fault = wrong and ("WRONGTYPE " .. key .. " is not of the type " .. command .. " reads") or n.err
    end
    return 0
  end
  return n
end

function M.list(key) return size("LLEN", key) end
function M.hash(key) return size("HLEN", key) end
function M.zset(key) return size("ZCARD", key) end
function M.set(key) return size("SCARD", key) end
function M.stream(key) return size("XLEN", key) end

-- The ready lists are the last keys of a call: from KEYS[first] on, one a priority step. Answers their sizes.
function M.ready(first)
  local sizes = {}
  for i = first, #KEYS do
    sizes[#sizes + 1] = size("LLEN", KEYS[i])
  end
  return sizes
end

return M
