-- Groups of `publish` whose messages have ids: delayed ones, and those that are put once.
local bands = require("lib.bands")
local record = require("lib.record")

local M = { seen = {} }
local delayed, delayed_records, calls, calls_old, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]

-- Leave out the messages whose id is known; their positions go to `skipped`, ids to remember to `names`. Reads only.
function M.look(group, names, skipped)
  local set = redis.call("HMGET", meta, "timer_at", "seen")
  M.timer_at = tonumber(set[1]) or 0
  if group.due and group.alive > 0 and group.now - (tonumber(set[2]) or 0) > group.alive then
    group.due = nil
  end
  local marks, bodies, ids, young, old = {}, {}, {}, {}, {}
  local waiting = redis.call("ZMSCORE", delayed, unpack(group.ids))
  redis.call("HLEN", delayed_records)
  for i = 1, #group.ids do
    marks[i] = "m" .. group.ids[i]
  end
  if group.named == 2 then
    young, old = redis.call("SMISMEMBER", calls, unpack(marks)), redis.call("SMISMEMBER", calls_old, unpack(marks))
  end
  for i = 1, #marks do
    if waiting[i] or young[i] == 1 or old[i] == 1 or M.seen[marks[i]] then
      skipped[#skipped + 1] = group.before + i
    else
      M.seen[marks[i]] = group.due ~= nil or group.named == 2
      ids[#ids + 1], bodies[#bodies + 1] = group.ids[i], group.bodies[i]
      if group.named == 2 then
        names[#names + 1] = marks[i]
      end
    end
  end
  group.ids, group.bodies, group.to = ids, bodies, #bodies
end

-- Into `delayed`; answers whether somebody must be woken: it falls due before whatever is waited for.
function M.put(group)
  if #group.bodies == 0 then
    return false
  end
  local held, scores, now = {}, {}, group.now
  local header, score = record.header(0, group.step, now), bands.score(group.step, group.due)
  for i = 1, #group.bodies do
    held[2 * i - 1], held[2 * i] = group.ids[i], header .. group.bodies[i]
    scores[2 * i - 1], scores[2 * i] = score, group.ids[i]
  end
  redis.call("HSET", delayed_records, unpack(held))
  redis.call("ZADD", delayed, unpack(scores))
  return M.timer_at <= now or group.due < M.timer_at
end

return M
