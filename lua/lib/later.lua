-- Groups of `publish` that have settings: delayed, expiring, of another priority step, or known by their ids.
local args = require("lib.args")
local bands = require("lib.bands")
local message = require("lib.message")
local record = require("lib.record")

local M = { seen = {} }
local LONGEST = 4398046511103 -- the last ms a band holds
local NAMES = { "step", "delay_ms", "at_ms", "ttl_ms", "alive_ms", "named" }
local delayed, delayed_records, calls, calls_old, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]

-- What the settings say, into `group`. It is due when it is not ready at once.
function M.read(group, settings, steps, now)
  local said = { string.match(settings, "^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$") }
  for i = 1, #NAMES do
    local n, least, most = tonumber(said[i]), i == 1 and 1 or 0, i == 1 and steps or i == 6 and 2 or LONGEST
    if not n or n < least or n > most then
      args.refuse(NAMES[i], said[i] or settings, string.format("a whole number from %d to %.0f", least, most))
      return
    end
    said[i] = n
  end
  local delay, at, ttl, alive = said[2], said[3], said[4], said[5]
  group.settings, group.step, group.named, group.alive, group.now = settings, said[1], said[6], alive, now
  group.expires = ttl > 0 and math.min(now + ttl, LONGEST)
  local due = math.min(at > 0 and at or now + delay, LONGEST)
  if due > now then
    group.due = due
    if group.named == 0 then
      args.refuse("named", 0, "1 or 2: what is delayed needs an id")
    end
  end
end

-- Its ids, which stand before its messages from ARGV[at + 1] on, and what a time to live says at their heads.
function M.prepare(group, odd, at)
  local bodies = group.bodies
  group.ids = {}
  for i = 1, #bodies do
    if group.named > 0 then
      group.ids[i] = ARGV[at + 2 * i - 1]
    end
    if group.expires then
      bodies[i] = message.with(bodies[i], odd[i] and odd[i].deliveries or 0, group.expires)
    end
  end
end

-- Leave out the messages whose id is known; their positions go to `skipped`, ids to remember to `names`. Reads only.
function M.look(group, names, skipped)
  local set = redis.call("HMGET", meta, "timer_at", "seen")
  M.timer_at = tonumber(set[1]) or 0
  if group.due and group.alive > 0 and group.now - (tonumber(set[2]) or 0) > group.alive then
    group.due = nil
  end
  local marks, bodies, ids = {}, {}, {}
  local waiting, young, old = redis.call("ZMSCORE", delayed, unpack(group.ids)), {}, {}
  redis.call("HLEN", delayed_records)
  for i = 1, #group.ids do
    marks[i] = "m" .. group.ids[i]
  end
  if group.named == 2 then
    young, old = redis.call("SMISMEMBER", calls, unpack(marks)), redis.call("SMISMEMBER", calls_old, unpack(marks))
  end
  for i = 1, #marks do
    if waiting[i] or young[i] == 1 or old[i] == 1 or M.seen[marks[i]] then
      skipped[#skipped + 1] = group.first + i
    else
      M.seen[marks[i]] = group.due ~= nil or group.named == 2
      ids[#ids + 1], bodies[#bodies + 1] = group.ids[i], group.bodies[i]
      if group.named == 2 then
        names[#names + 1] = marks[i]
      end
    end
  end
  group.ids, group.bodies = ids, bodies
end

-- Into `delayed`; answers whether somebody must be woken: it falls due before whatever is waited for.
function M.put(group)
  local held, scores, now = {}, {}, group.now
  local header, score = record.header(0, group.step, now), bands.score(group.step, group.due)
  for i = 1, #group.bodies do
    held[2 * i - 1], held[2 * i] = group.ids[i], header .. group.bodies[i]
    scores[2 * i - 1], scores[2 * i] = score, group.ids[i]
  end
  if #held == 0 then
    return false
  end
  redis.call("HSET", delayed_records, unpack(held))
  redis.call("ZADD", delayed, unpack(scores))
  return M.timer_at <= now or group.due < M.timer_at
end

return M
