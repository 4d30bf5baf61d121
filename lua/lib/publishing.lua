-- A publish in full: groups with settings, ids, messages that carry a head, repeated calls, and whatever may be wrong.
-- `publish` comes here when it is not one of those that nearly all are.
local dedup = require("lib.dedup")
local given = require("lib.given")
local later = require("lib.later")

local M = {}
local calls, calls_old, tokens, meta, stats, READY = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], 7
local SMALL = 8192 -- see lib/claiming

-- Which messages an earlier, equal call left out: their positions are remembered as its id is.
local function left_out(groups)
  local marks, positions, skipped = {}, {}, {}
  for i = 1, #groups do
    for at = groups[i].before + 1, groups[i].named > 0 and groups[i].before + groups[i].to or 0 do
      marks[#marks + 1], positions[#positions + 1] = "s" .. ARGV[1] .. "." .. at, at
    end
  end
  if #marks > 0 then
    local young = redis.call("SMISMEMBER", calls, unpack(marks))
    local old = redis.call("SMISMEMBER", calls_old, unpack(marks))
    for i = 1, #marks do
      if young[i] == 1 or old[i] == 1 then
        skipped[#skipped + 1] = positions[i]
      end
    end
  end
  return skipped
end

-- Ids and results of messages that were put once: remember the ones, forget the others, which are of older messages.
local function once(groups, known, ends)
  local till, stale, window, now = {}, {}, 0, 0
  for i = 1, #groups do
    local group = groups[i]
    for m = 1, group.named == 2 and #group.ids or 0 do
      window, now = math.max(window, group.window), group.now
      till[#till + 1], till[#till + 2] = string.format("%.0f", now + group.window), group.ids[m]
      stale[#stale + 1] = KEYS[group.results[m]]
    end
  end
  if #stale > 0 then
    redis.call("ZADD", known, unpack(till))
    redis.call("UNLINK", unpack(stale))
    dedup.forget(known, meta, #stale, now, window, ends)
  end
end

function M.run(time)
  local groups, total, largest, window, behind = given.groups(READY, time)
  if not groups then
    return redis.error_reply(given.fault())
  end
  local known = KEYS[behind] -- ids of messages; nil where none is put once

  -- All reads. What is wrong with a key is told before anything is written.
  local names, skipped, is_known, set, is_waking = {}, {}, false, nil, nil
  local function look()
    if ARGV[1] ~= "" then
      names[1] = "c" .. ARGV[1]
      is_known = redis.call("SISMEMBER", calls, names[1]) + redis.call("SISMEMBER", calls_old, names[1]) > 0
    end
    set = redis.call(
      "HMGET", meta, "paused", "largest", "calls_turn", "timer_at", "seen", "ids_end", "calls_window")
    is_waking = redis.call("LLEN", tokens) > 0
    redis.call("HLEN", stats)
    for i = 1, #groups do
      redis.call("LLEN", KEYS[READY + groups[i].step])
      if groups[i].named > 0 and not is_known then
        later.look(groups[i], known, set[4], set[5], skipped)
      end
    end
    if is_known then
      skipped = left_out(groups)
    end
  end
  local is_sound, fault = pcall(look)
  if not is_sound then
    local guard = require("lib.guard")
    local kinds = { "zset", "hash", "set", "set", "list", "hash", "hash" }
    for i = #kinds + 1, #KEYS do
      kinds[i] = i < behind and "list" or i == behind and "zset" or "any"
    end
    return redis.error_reply(guard.blame(fault, #KEYS, unpack(kinds)))
  end

  local answer = time[1] .. " " .. time[2] .. " "
  if is_known then
    dedup.touch(calls, calls_old, meta)
    return answer .. total - #skipped .. " 1 " .. table.concat(skipped, " ")
  end
  for i = 1, names[1] and #skipped or 0 do
    names[i + 1] = "s" .. ARGV[1] .. "." .. skipped[i]
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
  if known then
    once(groups, known, set[6])
  end
  if #names > 0 and (not set[3] or time[1] > set[3] or window > dedup.present(set[7])) then
    dedup.keep(calls, calls_old, meta, names, window, time[1], set[3])
  end
  return answer .. size .. " 0 " .. table.concat(skipped, " ")
end

return M
