local load_late
function load_late(name)
local late = {}
function late.dedup()
local M = {}
local CALLS = 120000 -- ms
local function expire(calls, calls_old, window)
  redis.call("PEXPIRE", calls, 2 * window)
  redis.call("PEXPIRE", calls_old, 2 * window)
end
local function longest(meta)
  return math.max(CALLS, tonumber(redis.call("HGET", meta, "calls_window")) or 0)
end
function M.touch(calls, calls_old, meta)
  expire(calls, calls_old, longest(meta))
end
function M.keep(calls, calls_old, meta, names, window, seconds)
  local turn, known = redis.call("HGET", meta, "calls_turn"), longest(meta)
  local is_over = turn and seconds > turn
  window = math.max(window or 0, known)
  if turn and not is_over and window == known then
    return
  end
  if is_over then
    redis.call("UNLINK", calls_old)
    redis.call("RENAME", calls, calls_old)
    redis.call("SADD", calls, unpack(names))
  end
  turn = string.format("%.0f", seconds + math.ceil(window / 1000))
  redis.call("HSET", meta, "calls_window", window, "calls_turn", turn)
  expire(calls, calls_old, window)
end
function late.dedup() return M end return M end
function late.args()
local M = { at = 0, fault = false }
local find = string.find
function M.refuse(name, given, wanted)
  if not M.fault then
    M.fault = "BADARG " .. name .. ": " .. string.sub(tostring(given), 1, 64) .. " is not " .. wanted
  end
end
function M.text(name, max)
  M.at = M.at + 1
  local given = ARGV[M.at]
  if not given or #given > max then
    M.refuse(name, given and (#given .. " bytes"), "text of at most " .. max .. " bytes")
    return ""
  end
  return given
end
function M.keys(fixed, min, max)
  local n = #KEYS - fixed
  if n < min or n > max then
    M.refuse("KEYS", #KEYS, string.format("from %.0f to %.0f keys", fixed + min, fixed + max))
  end
  return n
end
function late.args() return M end return M end
function late.shape()
local M = {}
function M.odd(messages)
  local odd, largest, byte = {}, 0, string.byte
  for i = 1, #messages do
    local this = messages[i]
    local brace, quote, first = byte(this, 1, 3)
    if brace ~= 123 or quote ~= 34 then
      odd[i] = false
    elseif first == 120 then -- may be "x-...
      local message = late.message()
      local deliveries, expires = message.head(this)
      odd[i] = { deliveries = deliveries, expires = expires }
    end
    if #this > largest then
      largest = #this
    end
  end
  return odd, largest
end
function late.shape() return M end return M end
function late.message()
local shape = late.shape()
local M = {}
local MOST_DELIVERIES, LAST_MS = 99999999, 4398046511103 -- what a record's header and a band can hold
local function member(message, name, at, most)
  local _, stop, value = string.find(message, '^"x%-' .. name .. '": ?"?([%w.+-]*)"?, ?', at)
  if not stop then
    return 0, at
  end
  local n = tonumber(value) or 0
  return n > 0 and math.min(math.floor(n), most) or 0, stop + 1
end
function M.head(message)
  if string.sub(message, 3, 4) ~= "x-" then
    return 0, 0, 2
  end
  local deliveries, after = member(message, "deliveries", 2, MOST_DELIVERIES)
  local expires, rest = member(message, "expires", after, LAST_MS)
  return deliveries, expires, rest
end
function M.with(message, deliveries, expires)
  local _, _, rest = M.head(message)
  local head = "{"
  if deliveries > 0 then
    head = head .. string.format('"x-deliveries":%d,', deliveries)
  end
  if expires > 0 then
    head = head .. string.format('"x-expires":%.0f,', expires)
  end
  return head .. string.sub(message, rest)
end
function late.message() return M end return M end
function late.given()
local args = late.args()
local message = late.message()
local shape = late.shape()
local M = {}
local LAST = 4398046511103 -- the last ms a band holds
local SETTINGS = {
  { "count", 1, 1000 }, { "step", 1, 10 }, { "delay_ms", 0, LAST }, { "at_ms", 0, LAST }, { "ttl_ms", 0, LAST },
  { "alive_ms", 0, LAST }, { "named", 0, 2 }, { "window_ms", 0, 31622400000 },
}
local function settle(group, settings, now)
  local said = { string.match(settings, "^" .. string.rep("(%d+) ", #SETTINGS - 1) .. "(%d+)$") }
  for i, setting in ipairs(SETTINGS) do
    local name, least, most = unpack(setting)
    local n = tonumber(said[i])
    if not n or n < least or n > most then
      args.refuse(name, said[i] or settings, string.format("a whole number from %.0f to %.0f", least, most))
      n = least
    end
    said[i] = n
  end
  local _, _, delay, at, ttl = unpack(said)
  group.to, group.step, group.alive, group.named, group.window = said[1], said[2], said[6], said[7], said[8]
  group.expires = ttl > 0 and math.min(now + ttl, LAST)
  group.now = now
  local due = math.min(at > 0 and at or now + delay, LAST)
  if due > now then
    group.due = due
    if group.named == 0 then
      args.refuse("named", 0, "1 or 2: what is delayed needs an id")
    end
  end
end
local function fill(group, count, at)
  local bodies, ids, width = group.bodies, group.ids, group.named > 0 and 2 or 1
  for i = 1, count do
    bodies[i] = ARGV[at + i * width]
    if width == 2 then
      ids[i] = ARGV[at + 2 * i - 1]
    end
  end
  local odd, largest = shape.odd(bodies)
  for i, head in pairs(odd) do
    if head == false then
      args.refuse("message", bodies[i], 'a JSON object that begins with {"')
    end
  end
  for i = 1, group.expires and count or 0 do
    bodies[i] = message.with(bodies[i], odd[i] and odd[i].deliveries or 0, group.expires)
  end
  return largest
end
function M.groups(ready, time)
  local steps, groups, total, largest, window = args.keys(ready, 1, 10), {}, 0, 0, 0
  args.text("call_id", 96)
  SETTINGS[2][3] = steps
  while args.at < #ARGV and not args.fault or total == 0 and not args.fault do
    local group = { step = 1, named = 0, window = 0, bodies = {}, ids = {}, from = 1, before = total }
    local settings = args.text("settings", 256)
    if settings == "" then
      group.to = #ARGV - args.at
    else
      settle(group, settings, time[1] * 1000 + math.floor(time[2] / 1000))
    end
    local count, at = group.to, args.at
    args.at, total = at + count * (group.named > 0 and 2 or 1), total + count
    if count < 1 or args.at > #ARGV then
      args.refuse("count", count, "the number of messages that were sent")
    elseif total > 1000 then
      args.refuse("count", total, "at most 1000 messages in a call")
    else
      largest, window = math.max(largest, fill(group, count, at)), math.max(window, group.window)
      groups[#groups + 1] = group
    end
  end
  return not args.fault and groups, total, largest, window > 0 and window
end
function M.fault()
  return args.fault
end
function late.given() return M end return M end
function late.bands()
local M = { SIZE = 4398046511104 }
function M.score(step, ms)
  return string.format("%.0f", (step - 1) * M.SIZE + ms)
end
function late.bands() return M end return M end
function late.record()
local M = {}
function M.header(deliveries, step, ms)
  return string.format("%d %d %.0f ", deliveries, step, ms)
end
function late.record() return M end return M end
function late.later()
local bands = late.bands()
local record = late.record()
local M = { seen = {} }
local delayed, delayed_records, calls, calls_old, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]
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
function late.later() return M end return M end
function late.publishing()
local dedup = late.dedup()
local given = late.given()
local later = late.later()
local M = {}
local calls, calls_old, tokens, meta, stats, READY = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], 7
local SMALL = 8192 -- see lib/claiming
function M.run(time)
  local groups, total, largest, window = given.groups(READY, time)
  if not groups then
    return redis.error_reply(given.fault())
  end
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
    local guard = late.guard()
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
function late.publishing() return M end return M end
function late.guard()
local M = { fault = false }
local function checked(answer, key, command)
  if type(answer) == "table" and answer.err then
    if not M.fault then
      local wrong = string.find(answer.err, "WRONGTYPE", 1, true)
      M.fault = wrong and ("WRONGTYPE " .. key .. " is not of the type " .. command .. " reads") or answer.err
    end
    return nil
  end
  return answer
end
function M.list(key) return checked(redis.pcall("LLEN", key), key, "LLEN") or 0 end
function M.hash(key) return checked(redis.pcall("HLEN", key), key, "HLEN") or 0 end
function M.zset(key) return checked(redis.pcall("ZCARD", key), key, "ZCARD") or 0 end
function M.set(key) return checked(redis.pcall("SCARD", key), key, "SCARD") or 0 end
function M.stream(key) return checked(redis.pcall("XLEN", key), key, "XLEN") or 0 end
function M.blame(failure, width, ...)
  local kinds, look = { ... }, { zset = M.zset, hash = M.hash, set = M.set, stream = M.stream, list = M.list }
  for i = 1, #KEYS do
    look[kinds[(i - 1) % width + 1] or "list"](KEYS[i])
  end
  return M.fault or tostring(type(failure) == "table" and failure.err or failure)
end
function late.guard() return M end return M end
function load_late(which) return late[which]() end
return load_late(name) end
local calls, calls_old, tokens, meta, stats, ready = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SMALL = 8192 -- see lib/claiming
local call_id, total, time, try = ARGV[1] or "", #ARGV - 2, redis.call("TIME"), redis.pcall
local is_plain = total > 0 and total <= 1000 and #call_id <= 96 and ARGV[2] == "" and #KEYS > 7 and #KEYS < 18
local largest, byte = 0, string.byte
for i = 3, is_plain and total + 2 or 0 do
  local body = ARGV[i]
  local brace, quote = byte(body, 1, 2)
  is_plain = is_plain and brace == 123 and quote == 34
  if #body > largest then
    largest = #body
  end
end
local name, set, waiting = "c" .. call_id, nil, nil
if is_plain then
  set, waiting = try("HMGET", meta, "paused", "largest", "calls_turn"), try("LLEN", tokens)
  is_plain = not set.err and type(waiting) == "number"
    and (call_id == "" or try("SISMEMBER", calls, name) == 0 and try("SISMEMBER", calls_old, name) == 0)
    and type(try("HINCRBY", stats, "published", total)) == "number"
  if is_plain and type(try("LPUSH", ready, unpack(ARGV, 3))) ~= "number" then
    redis.call("HINCRBY", stats, "published", -total)
    is_plain = false
  end
end
if not is_plain then
  local publishing = load_late("publishing")
  return publishing.run(time)
end
if call_id ~= "" then
  redis.call("SADD", calls, name)
  if not set[3] or time[1] > set[3] then
    local dedup = load_late("dedup")
    dedup.keep(calls, calls_old, meta, { name }, false, time[1])
  end
end
if largest > SMALL and largest > (tonumber(set[2]) or 0) then
  redis.call("HSET", meta, "largest", largest)
end
if waiting == 0 and set[1] ~= "1" then
  redis.call("RPUSH", tokens, "1")
end
return time[1] .. " " .. time[2] .. " " .. total .. " 0"
