-- Keys, looked at before anything is written: a read of the right type answers the size, and a key of another
-- type (or a read that this user may not run) becomes `fault`. A Lua error undoes nothing, so it must not happen late.
-- The busiest scripts read under `pcall` instead, and come here only to learn which key it was.
local limits = require("lib.limits")
local M = { fault = false }

function M.checked(answer, key, command)
  if type(answer) == "table" and answer.err then
    if not M.fault then
      local wrong = string.find(answer.err, "WRONGTYPE", 1, true)
      M.fault = wrong and ("WRONGTYPE " .. key .. " is not of the type " .. command .. " reads") or answer.err
    end
    return nil
  end
  return answer
end

function M.list(key) return M.checked(redis.pcall("LLEN", key), key, "LLEN") or 0 end
function M.hash(key) return M.checked(redis.pcall("HLEN", key), key, "HLEN") or 0 end
function M.zset(key) return M.checked(redis.pcall("ZCARD", key), key, "ZCARD") or 0 end
function M.set(key) return M.checked(redis.pcall("SCARD", key), key, "SCARD") or 0 end
function M.stream(key) return M.checked(redis.pcall("XLEN", key), key, "XLEN") or 0 end

-- What trims dead letters, which only those need that limit them: no probe asks for it, so it is tried here.
function M.trim(key, keep)
  if keep ~= "" then
    M.checked(redis.pcall("XTRIM", key, "MAXLEN", limits.MOST_ENTRIES), key, "XTRIM")
  end
end

-- The ready lists are the last keys of a call: from KEYS[first] on, one a priority step. Answers their sizes.
function M.ready(first)
  local sizes = {}
  for i = first, #KEYS do
    sizes[#sizes + 1] = M.list(KEYS[i])
  end
  return sizes
end

-- Why a read failed: the first key that is not of its type, or else the server's words. The kinds are those of the
-- first keys, and again after every `width` keys; all others are lists. "any": not looked at.
function M.blame(failure, width, ...)
  local kinds, look = { ... }, { zset = M.zset, hash = M.hash, set = M.set, stream = M.stream, list = M.list }
  for i = 1, #KEYS do
    local kind = kinds[(i - 1) % width + 1] or "list"
    if kind ~= "any" then
      look[kind](KEYS[i])
    end
  end
  return M.fault or tostring(type(failure) == "table" and failure.err or failure)
end

return M
