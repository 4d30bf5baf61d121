-- A publish in full: groups with settings, ids, messages that carry a head, repeated calls, and whatever may be wrong.
-- `publish` comes here when it is not one of those that nearly all are.
local dedup = require("lib.dedup")
local given = require("lib.given")
local later = require("lib.later")

local M = {}
local calls, calls_old, tokens, meta, stats, READY = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], 7
local SMALL = 8192 -- see lib/claiming

function M.run(time)
  local groups, total, largest, window = given.groups(READY, time)
  if not groups then
    return redis.error_reply(given.fault())
  end

  -- All reads. What is wrong with a key is told before anything is written.
  local names, skipped, is_known, set, is_waking = {}, {}, false, nil, nil
  local function look()
    if ARGV[1] ~= "" then
      names[1] = "c" .. ARGV[1]
      is_known = redis.call("SISMEMBER", calls, names[1]) + redis.call("SISMEMBER", calls_old, names[1]) > 0
    end
    set, is_waking = redis.call("HMGET", meta, "paused", "largest", "calls_turn"), redis.call("LLEN", tokens) > 0
    redis.call("HLEN", stats)
    for i = 1, #groups do
      redis.call("LLEN", KEYS[READY + groups[i].step])
      if groups[i].named > 0 then
        later.look(groups[i], names, skipped)
      end
    end
  end
  local is_sound, fault = pcall(look)
  if not is_sound then
    local guard = require("lib.guard")
    return redis.error_reply(guard.blame(fault, #KEYS, "zset", "hash", "set", "set", "list", "hash", "hash"))
  end

  local answer = time[1] .. " " .. time[2] .. " "
  if is_known then
    dedup.touch(calls, calls_old, meta)
    return answer .. total .. " 1"
  end
  if #names > 0 then
    redis.call("SADD", calls, unpack(names))
  end
  local size, wakes = 0, false
  for i = 1, #groups do
    local group = groups[i]
    local count = group.to - group.from + 1
    size = size + count
    if group.due then
      wakes = later.put(group) or wakes
    elseif count > 0 then
      redis.call("LPUSH", KEYS[READY + group.step], unpack(group.bodies, group.from, group.to))
      wakes = true
    end
  end
  if size > 0 then
    redis.call("HINCRBY", stats, "published", size)
    if largest > SMALL and largest > (tonumber(set[2]) or 0) then
      redis.call("HSET", meta, "largest", largest)
    end
    if wakes and not is_waking and set[1] ~= "1" then
      redis.call("RPUSH", tokens, "1")
    end
  end
  if #names > 0 and (window or not set[3] or time[1] > set[3]) then
    dedup.keep(calls, calls_old, meta, names, window, time[1])
  end
  return answer .. size .. " 0 " .. table.concat(skipped, " ")
end

return M
