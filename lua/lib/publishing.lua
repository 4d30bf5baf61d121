-- A publish in full: groups with settings, ids, messages that carry a head, repeated calls, and whatever may be wrong.
-- `publish` comes here when it is not one of those that nearly all are.
local args = require("lib.args")
local given = require("lib.given")
local guard = require("lib.guard")
local later = require("lib.later")
local limits = require("lib.limits")

local M = {}
local producer, tokens, meta, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 4
local SMALL = limits.SMALL
local FULL = "OOM command not allowed when used memory > 'maxmemory'."

-- What is remembered of a producer becomes `text`. Answers what it was, false if there was nothing; and whether memory
-- is full: then a new call must be refused, and a repeated one answered. PEXPIRE lifts the server's check.
local function remember(text, keep)
  local was = redis.pcall("SET", producer, text, "PX", keep, "GET")
  local is_full = type(was) == "table" and string.find(was.err, "OOM", 1, true)
  if is_full and redis.call("PEXPIRE", producer, keep) == 1 then
    was = redis.pcall("SET", producer, text, "PX", keep, "GET")
  end
  return was, is_full
end

-- The number of a producer's last call, and the positions of the messages which that left out.
local function last_of(was)
  local _, stop = string.find(was, "^%d+")
  return stop and tonumber(string.sub(was, 1, stop)) or 0, string.sub(was, (stop or 0) + 2)
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
    later.forget(known, meta, #stale, now, window, ends)
  end
end

-- `was` is what the short way found of the producer, if it has written its number there already.
function M.run(was)
  local keep = ARGV[2]
  if type(was) == "string" then
    redis.call("SET", producer, was, "PX", keep)
  elseif was == false then
    redis.call("UNLINK", producer)
  end
  local time = redis.call("TIME")
  local call, groups, total, largest, behind, some_named, some_once, is_part = given.groups(READY, time)
  if args.fault then
    return redis.error_reply(args.fault)
  end
  local known = some_once and KEYS[behind + 2] -- ids of messages

  -- All reads. A key of another type is answered before anything is written.
  local skipped, set, is_waking, published = {}, nil, nil, nil
  local function look()
    set = redis.call(
      "HMGET", meta, "paused", "largest", "timer_at", "seen", "ids_end", "expires", "partitions", "cancels"
    )
    is_waking = redis.call("LLEN", tokens) > 0
    published = redis.call("HGET", stats, "published")
    for i = 1, #groups do
      redis.call("LLEN", KEYS[READY + groups[i].step])
      if groups[i].named > 0 then
        later.look(groups[i], behind, set[3], set[4], skipped)
      end
    end
  end
  local is_sound, fault = pcall(look)
  if not is_sound then
    local kinds = { "any", "list", "hash", "hash" }
    for i = #kinds + 1, #KEYS do
      kinds[i] = i < behind and "list" or "any"
    end
    if some_named then
      kinds[behind], kinds[behind + 1] = "zset", "hash"
    end
    if some_once then
      kinds[behind + 2], kinds[behind + 3], kinds[behind + 4] = "zset", "set", "set"
    end
    return redis.error_reply(guard.blame(fault, #KEYS, unpack(kinds)))
  end

  if is_part and not published and not set[7] then
    return redis.error_reply("NOPART nothing says that this is a partition")
  end

  local left_out = table.concat(skipped, " ")
  if call > 0 then
    local is_full
    was, is_full = remember(ARGV[1] .. (#skipped > 0 and " " .. left_out or ""), keep)
    if type(was) == "table" and not is_full then
      guard.checked(was, producer, "SET")
      return redis.error_reply(guard.fault)
    end
    local last, left_out_then = 0, ""
    if type(was) == "string" then
      last, left_out_then = last_of(was)
    end
    if is_full or last >= call then
      if type(was) == "string" then -- a write, so that a WAIT behind a repeated call waits for the first
        redis.call("SET", producer, was, "PX", keep)
      end
      if last < call then
        return redis.error_reply(FULL)
      end
      left_out = last == call and left_out_then or ""
      local _, blanks = string.gsub(left_out, " ", "")
      return total - (left_out == "" and 0 or blanks + 1) .. " 1 " .. left_out
    end
  end

  local cancels = (tonumber(set[8]) or 0) > time[1] * 1000
  local size, wakes = 0, false
  for i = 1, #groups do
    local group = groups[i]
    local count = group.to - group.from + 1
    size = size + count
    for m = 1, group.tracked and group.named > 0 and cancels and count or 0 do
      local cancelled = require("lib.cancelled")
      group.bodies[m] = cancelled.put(KEYS[#KEYS], group.bodies[m], group.now)
    end
    if group.due then
      wakes = later.put(group, behind) or wakes
    elseif count > 0 then
      redis.call("LPUSH", KEYS[READY + group.step], unpack(group.bodies, group.from, group.to))
      wakes = true
    end
    if group.tracked and count > 0 then
      local tracking = require("lib.tracking")
      local listed = group.put_keys
      local first = listed and 1 or group.puts + 1
      local us = time[1] * limits.SECOND_US + time[2]
      tracking.put(group.due and "w" or "r", us, first, first + count - 1, listed)
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
    once(groups, known, set[5])
  end
  if set[6] then
    redis.call("PEXPIRE", tokens, set[6])
    redis.call("PEXPIRE", stats, set[6])
    for i = READY + 1, behind - 1 do
      redis.call("PEXPIRE", KEYS[i], set[6])
    end
  end
  return size .. (set[6] and " 2 " or " 0 ") .. left_out
end

return M
