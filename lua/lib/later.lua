-- Groups of `publish` whose messages have ids: delayed ones, and those that are put once.
local bands = require("lib.bands")
local record = require("lib.record")

local M = { seen = {}, last = 0 }
local TRIM = 100 -- ids forgotten beyond twice those that come, so that they grow fewer

-- A name that no delayed message has, for one more of this id.
local function other(delayed, id)
  local name
  M.last = math.max(M.last, redis.call("ZCARD", delayed))
  repeat
    M.last = M.last + 1
    name = string.format("%s#%d", id, M.last)
  until not M.seen[name] and not redis.call("ZSCORE", delayed, name)
  return name
end

-- Leave out the messages whose id is known, of those that are put once; their positions go to `skipped`. Others of one
-- id have a name each while they are delayed. From KEYS[behind] on there is what is delayed, then what holds ids. Reads
-- only.
function M.look(group, behind, timer_at, seen, skipped)
  local ids_at = behind + 2
  M.timer_at = tonumber(timer_at) or 0
  if group.due and group.alive > 0 and group.now - (tonumber(seen) or 0) > group.alive then
    group.due = nil
  end
  local bodies, ids, results, puts, till, young, old = {}, {}, {}, {}, {}, {}, {}
  local waiting = redis.call("ZMSCORE", KEYS[behind], unpack(group.ids))
  if group.due then
    redis.call("HLEN", KEYS[behind + 1])
  end
  if group.named == 2 then
    local marks = {} -- as the first release has them
    for i = 1, #group.ids do
      marks[i] = "m" .. group.ids[i]
    end
    young = redis.call("SMISMEMBER", KEYS[ids_at + 1], unpack(marks))
    old = redis.call("SMISMEMBER", KEYS[ids_at + 2], unpack(marks))
    till = redis.call("ZMSCORE", KEYS[ids_at], unpack(group.ids))
  end
  for i = 1, #group.ids do
    local id, position = group.ids[i], group.before + i
    local is_waiting = waiting[i] or M.seen[id]
    if is_waiting and group.named == 1 then
      id, is_waiting = other(KEYS[behind], id), false
    end
    if is_waiting or young[i] == 1 or old[i] == 1 or till[i] and tonumber(till[i]) > group.now then
      skipped[#skipped + 1] = position
    else
      M.seen[id] = group.due ~= nil or group.named == 2
      ids[#ids + 1], bodies[#bodies + 1] = id, group.bodies[i]
      results[#results + 1] = group.results and group.results + i
      puts[#puts + 1] = group.puts + i
    end
  end
  group.ids, group.bodies, group.results, group.put_keys, group.to = ids, bodies, results, puts, #bodies
end

-- Into what is delayed, KEYS[behind] and the next one; answers whether a consumer must be woken: the message falls due
-- before any that is waited for.
function M.put(group, behind)
  if #group.bodies == 0 then
    return false
  end
  local held, scores, now = {}, {}, group.now
  local header, score = record.header(0, group.step, now), bands.score(group.step, group.due)
  for i = 1, #group.bodies do
    held[2 * i - 1], held[2 * i] = group.ids[i], header .. group.bodies[i]
    scores[2 * i - 1], scores[2 * i] = score, group.ids[i]
  end
  redis.call("HSET", KEYS[behind + 1], unpack(held))
  redis.call("ZADD", KEYS[behind], unpack(scores))
  return M.timer_at <= now or group.due < M.timer_at
end

-- Some of the ids whose time is over are forgotten, and the key passes by itself once all are. `ends` is when it does.
function M.forget(ids, meta, many, now, window, ends)
  local over = redis.call("ZRANGEBYSCORE", ids, "-inf", now, "LIMIT", 0, 2 * many + TRIM)
  if #over > 0 then
    redis.call("ZREM", ids, unpack(over))
  end
  if now + window > (tonumber(ends) or 0) then
    redis.call("PEXPIRE", ids, 2 * window)
    redis.call("HSET", meta, "ids_end", string.format("%.0f", now + 2 * window))
  end
end

return M
