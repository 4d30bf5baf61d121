-- What `publish` was given, read in full: groups with settings, messages that carry a head, and what is wrong.
local args = require("lib.args")
local limits = require("lib.limits")
local message = require("lib.message")
local shape = require("lib.shape")

local M = {}
local LAST, LONGEST = limits.LAST_MS, limits.LONGEST_MS
local SETTINGS = {
  { "count", 1, 1000 }, { "step", 1, 10 }, { "delay_ms", 0, LAST }, { "at_ms", 0, LAST }, { "ttl_ms", 0, LAST },
  { "alive_ms", 0, LAST }, { "named", 0, 2 }, { "id_ms", 0, LONGEST }, { "tracked", 0, 1 },
}

-- What the settings say, into `group`. It is due when it is not ready at once.
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
  group.to, group.step, group.alive, group.named = said[1], said[2], said[6], said[7]
  group.window, group.tracked = said[8], said[9] == 1
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

-- Its messages, with ids before them if it is named, from ARGV[at + 1] on; answers the largest size.
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
    bodies[i] = message.with(bodies[i], odd[i] and odd[i].deliveries or 0, group.expires, odd[i] and odd[i].spared or 0)
  end
  return largest
end

-- The number of the call; its groups; how many messages; the largest of them, in bytes; the first key behind the ready
-- lists; whether any has an id; whether any is put once; whether they are for a partition. What is wrong is in
-- `args.fault`.
function M.groups(ready, time)
  local call, groups, total, largest, once, tracked = args.int("call", 0, 99999999999999), {}, 0, 0, 0, 0
  local marks = 0
  local is_part, some_named = false, false
  args.int("keep_ms", 1, LONGEST)
  while args.at < #ARGV and not args.fault or total == 0 and not args.fault do
    local group = { step = 1, named = 0, bodies = {}, ids = {}, from = 1, before = total }
    local settings = args.text("settings", 256)
    if total == 0 and string.byte(settings) == 112 then -- p
      is_part, settings = true, string.sub(settings, 2)
    end
    if settings == "" or settings == "t" then
      group.to, group.tracked = #ARGV - args.at, settings == "t"
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
      largest = math.max(largest, fill(group, count, at))
      groups[#groups + 1], group.results = group, once
      some_named = some_named or group.named > 0
      once = group.named == 2 and once + count or once
      group.puts, tracked = tracked, group.tracked and tracked + count or tracked
      marks = group.tracked and group.named > 0 and 1 or marks
    end
  end
  -- Behind the ready lists: what is delayed, if any have ids; the ids of those that are put once, also as the first
  -- release has them, and their results. Last, what says of tracked ones that they were put, and of which ids some
  -- are cancelled.
  local steps = args.keys(ready + (some_named and 2 or 0) + (once > 0 and 3 + once or 0) + tracked + marks, 1, 10)
  for _, group in ipairs(groups) do
    group.results, group.puts = ready + steps + 5 + group.results, #KEYS - marks - tracked + group.puts
    if group.step > steps then
      args.refuse("step", group.step, "the number of a ready list")
    end
  end
  return call, groups, total, largest, ready + steps + 1, some_named, once > 0, is_part
end

return M
