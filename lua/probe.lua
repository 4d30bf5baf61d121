-- probe: may this user run each command that the scripts run inside? Tried on a scratch key, before anything real.
--
-- A command refused in the middle of a move would lose what was moved, since a Lua error undoes nothing.
--
-- KEYS
--   probe            any     a key of its own; deleted again. Also the name of a channel
-- RETURNS
--   the commands refused, each with the server's words; none further behind one that refuses every write for now
-- ERRORS
--   BADARG
local args = require("lib.args")

args.keys(1, 0, 0)
local fault = args.done()
if fault then
  return redis.error_reply(fault)
end

local key = KEYS[1]
-- DEL comes first: it frees, and so the others are allowed at full memory.
local COMMANDS = {
  { "DEL", key }, { "UNLINK", key }, { "TIME" }, { "LLEN", key }, { "HLEN", key }, { "ZCARD", key }, { "SCARD", key },
  { "XLEN", key }, { "HSET", key, "f", 1 }, { "HGET", key, "f" }, { "HMGET", key, "f" }, { "HGETALL", key },
  { "HEXISTS", key, "f" }, { "HINCRBY", key, "f", 1 }, { "HDEL", key, "f" },
  { "ZADD", key, 1, "m" }, { "ZSCORE", key, "m" }, { "ZMSCORE", key, "m" }, { "ZCOUNT", key, 0, 1 },
  { "ZRANGE", key, 0, 0 }, { "ZREVRANGE", key, 0, 0 }, { "ZRANGEBYSCORE", key, 0, 1 }, { "ZREM", key, "m" },
  { "LPUSH", key, "1" }, { "RPUSH", key, "1" }, { "LINDEX", key, 0 }, { "RPOP", key, 2 },
  { "SMISMEMBER", key, "m" }, { "PEXPIRE", key, 1000 }, { "DEL", key },
  { "XADD", key, "1-1", "f", "v" }, { "XRANGE", key, "-", "+", "COUNT", 1 }, { "XDEL", key, "1-1" }, { "DEL", key },
  { "SET", key, "v", "PX", 1000, "GET" }, { "DEL", key }, { "PUBLISH", key, "" },
}
-- What refuses one of these for a while refuses all that write. Processes ask again several times a second: stop there.
local PASSING = { READONLY = true, NOREPLICAS = true, MISCONF = true }
local refused = {}
for _, command in ipairs(COMMANDS) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == "table" and answer.err then
    local words = string.gsub(answer.err, "^@user_script: ?%d+: ", "") -- of Redis 6.2
    refused[#refused + 1], refused[#refused + 2] = command[1], words
    if PASSING[string.match(words, "^%-?(%u+)")] then
      break
    end
  end
end
return refused
