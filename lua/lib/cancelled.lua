-- Tracked messages that were cancelled while they lay deep in a ready list. A mark says how many with this id the
-- claims that meet them are to drop. The id may be put again meanwhile: that message says when it was put, behind its
-- id, and is not dropped. {"x-tracked":"<id> <ms>",...
--
-- A mark is `<ms when the last was cancelled> <how many> <ms when it was put again last>`. Earlier releases write the
-- first number alone.
local message = require("lib.message")

local M = {}

local function read(key, name)
  local mark = redis.pcall("HGET", key, name)
  local cancelled, count, put = string.match(type(mark) == "string" and mark or "", "^(%d+) ?(%d*) ?(%d*)$")
  return tonumber(cancelled), tonumber(count) or 1, tonumber(put) or 0
end

-- What frees comes first, so that it works at full memory.
local function write(key, name, cancelled, count, put)
  redis.call("HDEL", key, "")
  redis.call("HSET", key, name, string.format("%.0f %d %.0f", cancelled, count, put))
end

-- One more with this id is to be dropped: whatever was put until now.
function M.add(key, name, now)
  local cancelled, count, put = read(key, name)
  write(key, name, math.max(now, put), cancelled and count + 1 or 1, 0)
end

-- A message that is put under this id, as it is to be stored.
function M.put(key, body, now)
  local _, _, rest = message.head(body)
  local name, stop = string.match(body, '^"x%-tracked": ?"([^"\\ ]+)()"', rest)
  local cancelled, count = read(key, name or "")
  if not cancelled then
    return body
  end
  local put = math.max(now, cancelled + 1)
  write(key, name, cancelled, count, put)
  return string.format("%s %.0f%s", string.sub(body, 1, stop - 1), put, string.sub(body, stop))
end

-- Whether a message with this id, put again at `since` or 0, is to be dropped, then one fewer is; and whether one was
-- put after it.
function M.take(key, name, since)
  local cancelled, count, put = read(key, name)
  if not cancelled or since > cancelled then
    return false
  elseif count > 1 then
    write(key, name, cancelled, count - 1, put)
  else
    redis.call("HDEL", key, name)
  end
  return true, put > 0
end

return M
