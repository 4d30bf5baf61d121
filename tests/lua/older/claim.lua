local load_late
function load_late(name)
local late = {}
function late.receipts()
local M = {}
function M.named(claim_id, attempt, n)
  local names, front = {}, claim_id .. "." .. attempt .. "."
  for i = 1, n do
    names[i] = front .. i
  end
  return names
end
function M.ack(unacked, records, receipts)
  local lost = {}
  if redis.call("HDEL", records, unpack(receipts)) == #receipts then
    redis.call("ZREM", unacked, unpack(receipts))
  else
    for i = 1, #receipts do
      if redis.call("ZREM", unacked, receipts[i]) == 0 then
        lost[#lost + 1] = i
      end
    end
  end
  return lost
end
function late.receipts() return M end return M end
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
function M.int(name, min, max)
  local at = M.at + 1
  M.at = at
  local given = ARGV[at]
  local n = given and not find(given, "%D") and tonumber(given)
  if not n or n < min or n > max then
    M.refuse(name, given, string.format("a whole number from %.0f to %.0f", min, max))
    return min
  end
  return n
end
function M.group(name, max)
  local n = M.int(name, 0, max)
  local at, given = M.at, {}
  for i = 1, n do
    given[i] = ARGV[at + i]
  end
  M.at = at + n
  if M.at > #ARGV then
    M.refuse(name, #given, "what the count before it says")
  end
  return given
end
function M.done()
  if M.at < #ARGV then
    M.refuse("ARGV", #ARGV, "the number of arguments this script takes: " .. M.at)
  end
  return M.fault
end
function late.args() return M end return M end
function late.bands()
local M = { SIZE = 4398046511104 }
function M.score(step, ms)
  return string.format("%.0f", (step - 1) * M.SIZE + ms)
end
function M.behind_first(key)
  return redis.call("ZCOUNT", key, M.SIZE, "+inf") > 0
end
function M.stirs(key, now, steps)
  return redis.call("ZCOUNT", key, "-inf", now) > 0 or steps > 1 and M.behind_first(key)
end
function late.bands() return M end return M end
function late.clock()
local M = {}
function M.now()
  local t = redis.call("TIME")
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
function late.clock() return M end return M end
function late.record()
local M = {}
function M.header(deliveries, step, ms)
  return string.format("%d %d %.0f ", deliveries, step, ms)
end
function M.split(record)
  local _, stop, deliveries, step, ms = string.find(record, "^(%d+) (%d+) (%d+) ")
  if not stop or #deliveries > 9 or #step > 2 or #ms > 15 then
    return nil
  end
  return tonumber(deliveries), tonumber(step), tonumber(ms), string.sub(record, stop + 1)
end
function late.record() return M end return M end
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
function late.lane()
local bands = late.bands()
local record = late.record()
local shape = late.shape()
local M = {}
local MOST_DEATHS = 100 -- a claim that sent so many to dead letters stops, though it has room for more
local TASTE = 4 -- popped first, when nobody has told their sizes: a message may have 10 MB
function M.change(this, field, value)
  this.changes[#this.changes + 1], this.changes[#this.changes + 2] = field, value
end
function M.bury(this, call, reason, deliveries, step, body, detail)
  local dead = late.dead()
  local id = dead.add(KEYS[this.at + 5], reason, detail or "", deliveries, step, body)
  this.first_death, this.last_death = this.first_death or id, id
  this.deaths, call.deaths, call.bytes = (this.deaths or 0) + 1, call.deaths + 1, call.bytes + #body
end
function M.room(call)
  return call.bytes < call.max_bytes and call.deaths < MOST_DEATHS and call.limit - call.count or 0
end
function M.fitting(this, call)
  local free, space = M.room(call), call.max_bytes - call.bytes
  if free * this.largest > space then
    free = math.min(free, math.max(1, math.floor(space / this.largest)))
  end
  return free
end
function M.hand(this, call, deliveries, expires, step, bodies, from, to)
  local spent = call.max_deliveries > 0 and deliveries > call.max_deliveries
  if spent or expires > 0 and expires <= call.now then
    for i = from, to do
      M.bury(this, call, spent and "max_deliveries" or "expired", deliveries - 1, step, bodies[i])
    end
    return to + 1
  end
  local known = deliveries * 16 + step
  if call.known ~= known then -- mostly all are alike
    call.known, call.header = known, record.header(deliveries, step, call.now)
    call.deadline = bands.score(step, call.now + call.lease)
  end
  local header, deadline, index, receipts = call.header, call.deadline, this.index, call.receipts
  local held, scores, out, count, bytes = call.held, call.scores, call.out, call.count, call.bytes
  local o, n, most = 5 * count + 1, #held, call.max_bytes
  for i = from, to do
    if bytes >= most then
      to = i - 1
      break
    end
    local body, receipt = bodies[i], receipts[count + 1]
    out[o + 1], out[o + 2], out[o + 3], out[o + 4], out[o + 5] = index, receipt, deliveries, step, body
    held[n + 1], held[n + 2] = receipt, header .. body
    scores[n + 1], scores[n + 2] = deadline, receipt
    count, o, n, bytes = count + 1, o + 5, n + 2, bytes + #body
  end
  call.count, call.bytes = count, bytes
  return to + 1
end
function M.lease(this, call)
  local n = #call.held / 2
  if n > 0 then
    redis.call("HSET", KEYS[this.at + 2], unpack(call.held))
    redis.call("ZADD", KEYS[this.at + 1], unpack(call.scores))
    this.delivered, call.held, call.scores = this.delivered + n, {}, {}
  end
end
function M.pop(this, call, step)
  local key, size = KEYS[this.at + 8 + step], this.sizes[step]
  while size > 0 do
    local many = M.fitting(this, call)
    if many == 0 then
      break
    end
    local bodies = redis.call("RPOP", key, call.count == 0 and math.min(many, TASTE) or many)
    local odd, largest = shape.odd(bodies)
    local n, at = #bodies, 1
    call.freed, this.largest = true, math.max(this.largest, largest)
    if next(odd) == nil then
      at = M.hand(this, call, 1, 0, step, bodies, 1, n)
    end
    while at <= n and M.room(call) > 0 do
      local head = odd[at]
      if head == false then
        M.bury(this, call, "undecodable", 0, step, bodies[at])
        at = at + 1
      else
        at = M.hand(this, call, head and head.deliveries + 1 or 1, head and head.expires or 0, step, bodies, at, at)
      end
    end
    M.lease(this, call)
    for i = n, at, -1 do -- larger than any before: what found no room goes back to where it was
      redis.call("RPUSH", key, bodies[i])
    end
    size, this.left = size - at + 1, this.left - at + 1
  end
  this.sizes[step] = size
end
function late.lane() return M end return M end
function late.outage()
local M = {}
local RESOLUTION = 250 -- ms; `seen` is written no more often than that
local WAIT = 1500 -- ms; a waiting consumer claims once in 1.2 s, so a shorter gap is no outage, however short the lease
function M.grace(seen, grace, known_renew, renew, now, changes)
  seen, grace, known_renew = tonumber(seen), tonumber(grace) or 0, tonumber(known_renew) or 0
  if renew > known_renew then
    changes[#changes + 1], changes[#changes + 2] = "renew", renew
  else
    renew = known_renew
  end
  if seen and now - seen > math.max(renew * 1.5, WAIT) then
    grace = now + renew
    changes[#changes + 1], changes[#changes + 2] = "grace", string.format("%.0f", grace)
  end
  if not seen or now < seen or now - seen > RESOLUTION then
    changes[#changes + 1], changes[#changes + 2] = "seen", string.format("%.0f", now)
  end
  return grace
end
function late.outage() return M end return M end
function late.claiming()
local args = late.args()
local bands = late.bands()
local clock = late.clock()
local lane = late.lane()
local outage = late.outage()
local receipts = late.receipts()
local M = {}
local FIXED, SMALL = 8, 8192 -- bytes; below this the size of a message does not limit how many are popped at once
local function open(q, width, steps, renew, now)
  local at, sizes, left, changes = (q - 1) * width, {}, 0, {}
  for step = 1, steps do
    local size = redis.call("LLEN", KEYS[at + FIXED + step])
    sizes[step], left = size, left + size
  end
  local unacked, delayed = KEYS[at + 1], KEYS[at + 3]
  local in_unacked, in_delayed = redis.call("ZCARD", unacked), redis.call("ZCARD", delayed)
  local set = redis.call("HMGET", KEYS[at + 7], "paused", "seen", "grace", "renew", "largest", "steps")
  local grace, known_steps = outage.grace(set[2], set[3], set[4], renew, now, changes), tonumber(set[6]) or 0
  local known_largest = tonumber(set[5]) or 0
  if known_steps < steps then
    changes[#changes + 1], changes[#changes + 2], known_steps = "steps", steps, steps
  end
  redis.call("XLEN", KEYS[at + 5])
  local this = {
    at = at, index = q, sizes = sizes, left = left, in_unacked = in_unacked, in_delayed = in_delayed, grace = grace,
    tokens = redis.call("LLEN", KEYS[at + 6]), paused = set[1] == "1", steps = known_steps,
    largest = math.max(SMALL, known_largest), known_largest = known_largest, changes = changes, delivered = 0,
    acked = 0,
  }
  redis.call("HLEN", KEYS[at + 8])
  if in_delayed > 0 then
    redis.call("HLEN", KEYS[at + 4])
  end
  if in_unacked > 0 and now >= grace and bands.stirs(unacked, now, known_steps)
    or in_delayed > 0 and bands.stirs(delayed, now, known_steps) then
    this.stirs = true
  end
  return this
end
local function report(this, call, claim_id)
  local dead = late.dead()
  if this.deaths then
    lane.change(this, "deaths", claim_id .. " " .. this.first_death .. " " .. this.last_death)
  end
  local entries, out = redis.call("XRANGE", KEYS[this.at + 5], this.first_death, this.last_death), call.buried or {}
  call.buried = out
  for i = 1, #entries do
    local letter, n = dead.fields(entries[i]), #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = this.index, letter.reason, letter.detail, letter.message
  end
end
local function close(this, call, claim_id, consumer)
  local at, changes, wake = this.at, this.changes, false
  if not this.paused then
    wake = this.left > 0
    if not wake and (this.stirs or this.in_delayed > 0) then
      local recovery = late.recovery()
      wake = recovery.more(this, call, consumer)
    end
  end
  if this.first_death then
    report(this, call, claim_id)
  end
  if not call.freed and (wake or #changes > 0) then
    redis.call("DEL", KEYS[at + 6]) -- it frees, and so what grows is allowed at full memory
    this.tokens, call.freed = 0, true
  end
  if this.delivered > 0 then
    redis.call("HINCRBY", KEYS[at + 8], "delivered", this.delivered)
  end
  if this.acked > 0 then
    redis.call("HINCRBY", KEYS[at + 8], "acked", this.acked)
  end
  if this.redelivered then
    redis.call("HINCRBY", KEYS[at + 8], "expired", this.redelivered)
  end
  if this.deaths then
    redis.call("HINCRBY", KEYS[at + 8], "dead", this.deaths)
  end
  if this.largest > this.known_largest then
    lane.change(this, "largest", this.largest)
  end
  if #changes > 0 then
    redis.call("HSET", KEYS[at + 7], unpack(changes))
  end
  if wake and this.tokens == 0 then
    redis.call("RPUSH", KEYS[at + 6], "1")
  elseif not wake and this.tokens > 0 then
    redis.call("DEL", KEYS[at + 6])
  end
  return wake == true
end
function M.run()
  local claim_id, attempt = args.text("claim_id", 96), args.int("attempt", 0, 9)
  local limit, lease = args.int("limit", 0, 1000), args.int("lease_ms", 1, 31622400000)
  local renew, max_deliveries = args.int("renew_ms", 1, 31622400000), args.int("max_deliveries", 0, 1000000000)
  local max_bytes, steps = args.int("max_bytes", 1, 1073741824), args.int("steps", 1, 10)
  local consumer, now = string.match(claim_id, "^(.+)%-%d+$"), clock.now()
  local width = FIXED + steps
  local queues = #KEYS / width
  if queues % 1 ~= 0 or queues < 1 then
    return redis.error_reply("BADARG KEYS: " .. #KEYS .. " is not a multiple of " .. width)
  elseif not consumer then
    return redis.error_reply("BADARG claim_id: not <consumer>-<counter>")
  end
  local acks = {}
  for q = 1, queues do
    acks[q] = args.group("acks", 1000)
  end
  if args.done() then
    return redis.error_reply(args.fault)
  end
  local lanes, names, is_repeated = {}, nil, attempt > 0
  local function look()
    local leased, available = 0, 0
    for q = 1, queues do
      local this = open(q, width, steps, renew, now)
      lanes[q], leased = this, leased + this.in_unacked
      available = available + this.left + this.in_unacked + this.in_delayed
    end
    names = receipts.named(claim_id, attempt, math.min(limit, available))
    local asked = leased > 0 and #names > 0 and names or { "" }
    for q = 1, queues do
      local held = redis.call("HMGET", KEYS[lanes[q].at + 2], unpack(asked))
      for i = 1, #asked do
        is_repeated = is_repeated or held[i] ~= false
      end
    end
  end
  local is_sound, fault = pcall(look)
  if not is_sound then
    local guard = late.guard()
    return redis.error_reply(
      guard.blame(fault, width, "zset", "hash", "zset", "hash", "stream", "list", "hash", "hash"))
  end
  local call = {
    limit = limit, lease = lease, max_deliveries = max_deliveries, max_bytes = max_bytes, steps = steps, now = now,
    receipts = names, held = {}, scores = {}, out = { "" }, count = 0, bytes = 0, deaths = 0, freed = false,
  }
  local missing = ""
  for q = 1, queues do
    local this, these = lanes[q], acks[q]
    if #these > 0 then
      local lost = receipts.ack(KEYS[this.at + 1], KEYS[this.at + 2], these)
      this.acked, call.freed = #these - #lost, true
      for i = 1, #lost do
        missing = missing .. " " .. q .. " " .. lost[i]
      end
    end
  end
  local is_replayed = false
  if is_repeated then
    local replay = late.replay()
    is_replayed = replay.all(lanes, call, claim_id, attempt)
  end
  for step = 1, is_replayed and 0 or steps do
    for q = 1, queues do
      local this = lanes[q]
      if not this.paused then
        if this.stirs then
          local recovery = late.recovery()
          recovery.take(this, call, step)
        end
        lane.pop(this, call, step)
      end
    end
  end
  local more, mores = "", 0
  for q = 1, queues do
    if close(lanes[q], call, claim_id, consumer) then
      more, mores = more .. " " .. q, mores + 1
    end
  end
  local wait = call.next_due and math.max(0, call.next_due - now) or -1
  call.out[1] = now .. " " .. wait .. " " .. mores .. more .. missing
  call.out[#call.out + 1] = call.buried
  return call.out
end
function late.claiming() return M end return M end
function late.due()
local bands = late.bands()
local M = {}
function M.now(key, from, to, now, limit)
  local found
  for step = from, to do
    local low = (step - 1) * bands.SIZE
    local left = limit - (found and #found or 0)
    local some = left > 0 and redis.call("ZRANGEBYSCORE", key, low, low + now, "LIMIT", 0, left) or {}
    if not found then
      found = some
    else
      for i = 1, #some do
        found[#found + 1] = some[i]
      end
    end
  end
  return found
end
function M.earliest(key, steps)
  local earliest
  for step = 1, steps do
    local low = (step - 1) * bands.SIZE
    local head = redis.call("ZRANGEBYSCORE", key, low, low + bands.SIZE - 1, "WITHSCORES", "LIMIT", 0, 1)
    local ms = head[2] and head[2] % bands.SIZE
    if ms and (not earliest or ms < earliest) then
      earliest = ms
    end
  end
  return earliest
end
function late.due() return M end return M end
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
function late.message() return M end return M end
function late.recovery()
local bands = late.bands()
local due = late.due()
local lane = late.lane()
local message = late.message()
local record = late.record()
local M = {}
local MOST = 200 -- a claim that took so many expired or due ones stops: a thousand would take 10 ms
local function last(this, call, step)
  return step == call.steps and this.steps or step
end
local function take_out(this, call, step, index, records, found)
  local at = 0
  while at < #found do
    local many, bytes = math.min(lane.fitting(this, call), #found - at), call.bytes
    if many == 0 then
      break
    end
    local held = redis.call("HMGET", records, unpack(found, at + 1, at + many))
    for i = 1, many do
      if bytes >= call.max_bytes then -- they are larger than any before
        many = i - 1
        break
      end
      bytes = bytes + #(held[i] or "")
    end
    redis.call("ZREM", index, unpack(found, at + 1, at + many))
    redis.call("HDEL", records, unpack(found, at + 1, at + many))
    call.freed = true
    for i = 1, many do
      local deliveries, _, _, body = record.split(held[i] or "")
      if deliveries then
        local _, expires = message.head(body)
        this.largest = math.max(this.largest, #body)
        lane.hand(this, call, deliveries + 1, expires, step, { body }, 1, 1)
      elseif held[i] then
        lane.bury(this, call, "corrupt", 0, step, held[i], records == KEYS[this.at + 4] and found[at + i])
      end
    end
    lane.lease(this, call)
    at = at + many
  end
  return at
end
local function recover(this, call, step, index, records)
  local gone = 0
  while lane.room(call) > 0 do
    local most = math.min(lane.room(call), MOST - gone)
    if most == 0 then
      call.limit = call.count -- what comes behind them must wait for its turn
      break
    end
    local found = due.now(index, step, last(this, call, step), call.now, most)
    gone = gone + take_out(this, call, step, index, records, found)
    if #found < most then
      break
    end
  end
  return gone
end
local function deepest(this, index, size)
  return size == 0 and 0 or this.steps > 1 and bands.behind_first(index) and this.steps or 1
end
function M.take(this, call, step)
  if step == 1 then
    this.deepest_unacked = call.now >= this.grace and deepest(this, KEYS[this.at + 1], this.in_unacked) or 0
    this.deepest_delayed = deepest(this, KEYS[this.at + 3], this.in_delayed)
  end
  if step <= this.deepest_unacked then
    local n = recover(this, call, step, KEYS[this.at + 1], KEYS[this.at + 2])
    this.in_unacked, this.redelivered = this.in_unacked - n, (this.redelivered or 0) + n
  end
  if step <= this.deepest_delayed then
    this.in_delayed = this.in_delayed - recover(this, call, step, KEYS[this.at + 3], KEYS[this.at + 4])
  end
end
local function remains(this, call)
  if lane.room(call) > 0 then
    return false -- every step was looked at and ran dry
  end
  for step = 1, call.steps do
    local to = last(this, call, step)
    if this.in_delayed > 0 and #due.now(KEYS[this.at + 3], step, to, call.now, 1) > 0
      or this.in_unacked > 0 and call.now >= this.grace
      and #due.now(KEYS[this.at + 1], step, to, call.now, 1) > 0 then
      return true
    end
  end
  return false
end
local function timer(this, call, consumer)
  if this.in_delayed == 0 then
    return false
  end
  local set = redis.call("HMGET", KEYS[this.at + 7], "timer_at", "timer_by")
  local timer_at, is_mine = tonumber(set[1]), set[2] == consumer
  local next_due = due.earliest(KEYS[this.at + 3], deepest(this, KEYS[this.at + 3], this.in_delayed))
  if not next_due or timer_at and timer_at > call.now and timer_at <= next_due and not is_mine then
    return false
  elseif call.count > 0 or call.limit == 0 then -- it goes to work: somebody who waits shall keep the time
    lane.change(this, "timer_at", 0)
    return "timer"
  end
  lane.change(this, "timer_at", string.format("%.0f", next_due))
  lane.change(this, "timer_by", consumer)
  if not call.next_due or next_due < call.next_due then
    call.next_due = next_due
  end
  return false
end
function M.more(this, call, consumer)
  return remains(this, call) or timer(this, call, consumer)
end
function late.recovery() return M end return M end
function late.replay()
local receipts = late.receipts()
local record = late.record()
local M = {}
local function of(this, call, names)
  local held, found = redis.call("HMGET", KEYS[this.at + 2], unpack(names)), false
  for i = 1, #names do
    if held[i] then
      local deliveries, step, _, body = record.split(held[i])
      local out, n = call.out, #call.out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = this.index, names[i], deliveries, step, body
      found = true
    end
  end
  return found
end
local function deaths(this, claim_id)
  local told = redis.call("HGET", KEYS[this.at + 7], "deaths") or ""
  local by, first, last = string.match(told, "^(.*) (%S+) (%S+)$")
  if by ~= claim_id then
    return false
  end
  this.first_death, this.last_death = first, last
  return true
end
function M.all(lanes, call, claim_id, last)
  local found = false
  for q = 1, #lanes do
    found = deaths(lanes[q], claim_id) or found
  end
  for attempt = 0, last do
    local names = attempt < last and receipts.named(claim_id, attempt, call.limit) or call.receipts
    for q = 1, #names > 0 and #lanes or 0 do
      found = of(lanes[q], call, names) or found
    end
  end
  return found
end
function late.replay() return M end return M end
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
function late.dead()
local M = {}
function M.add(dead, reason, detail, deliveries, step, message)
  return redis.call("XADD", dead, "*", "reason", reason, "detail", detail, "deliveries", deliveries, "step", step,
    "message", message)
end
function M.fields(entry)
  local by_name = { message = "", reason = "", detail = "" }
  for i = 1, #entry[2], 2 do
    by_name[entry[2][i]] = entry[2][i + 1]
  end
  return by_name
end
function late.dead() return M end return M end
function load_late(which) return late[which]() end
return load_late(name) end
local unacked, records, delayed, tokens, stats, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[8], 8
local TASTE, BEHIND = 4, "4398046511104" -- see lib/lane, lib/bands
local claim_id, limit, lease = ARGV[1], tonumber(ARGV[3]) or 0, tonumber(ARGV[4]) or 0
local max_bytes, acks, byte, time = tonumber(ARGV[7]) or 0, #ARGV - 9, string.byte, redis.call("TIME")
local now = time[1] .. string.sub("00000" .. time[2], -6, -4)
local is_plain = acks >= 0 and acks <= 1000 and tonumber(ARGV[9]) == acks and ARGV[2] == "0" and #claim_id <= 96
  and limit >= 1 and limit <= 1000 and lease >= 1 and lease <= 31622400000 and max_bytes <= 1073741824
  and #ARGV[6] > 0 and #ARGV[6] < 10 and #KEYS == READY + (tonumber(ARGV[8]) or 0)
  and not string.find(ARGV[3] .. ARGV[4] .. ARGV[6] .. ARGV[7] .. ARGV[9], "%D") -- tonumber takes 1e2 and 0x10 as well
local names, left, largest, has_token = {}, 0, 0, false
local function stirs(index)
  local size = redis.call("ZCARD", index)
  return size > 0 and size > redis.call("ZCOUNT", index, "(" .. now, "(" .. BEHIND)
end
local function look()
  local size = redis.call("LLEN", KEYS[READY + 1])
  left = size > limit and size - limit or 0
  for step = 2, left > 0 and 0 or #KEYS - READY do
    left = left + redis.call("LLEN", KEYS[READY + step])
  end
  local set = redis.call("HMGET", KEYS[7], "paused", "seen", "renew", "largest", "steps")
  local since = now - (tonumber(set[2]) or 0)
  largest = tonumber(set[4]) or max_bytes
  if size == 0 or size < limit and left > 0 or set[1] == "1" or since < 0 or since > 250
    or set[3] ~= ARGV[5] or set[5] ~= ARGV[8] or largest * limit > max_bytes or stirs(unacked)
    or redis.call("ZCARD", delayed) > 0 and (left == 0 or stirs(delayed)) then
    return
  end
  has_token = redis.call("LLEN", tokens) > 0
  for i = 1, size < limit and size or limit do
    names[i] = claim_id .. ".0." .. i
  end
  local held = redis.call("HMGET", records, unpack(names))
  for i = 1, #names do
    is_plain = is_plain and not held[i] -- nobody uses a claim id twice; if somebody does, no lease is overwritten
  end
end
local bodies, ready, take = {}, KEYS[READY + 1], 0
if is_plain and pcall(look) and is_plain then
  take = #names
end
while is_plain and #bodies < take do
  local some = redis.call("RPOP", ready, #bodies == 0 and take > TASTE and TASTE or take - #bodies)
  for i = 1, #some do
    local body = some[i]
    local brace, quote, first = byte(body, 1, 3)
    is_plain = is_plain and brace == 123 and quote == 34 and first ~= 120 and #body <= largest -- not "x-...
    bodies[#bodies + 1] = body
  end
end
if not (is_plain and take > 0 and type(redis.pcall("HINCRBY", stats, "delivered", take)) == "number") then
  for i = #bodies, 1, -1 do
    redis.call("RPUSH", ready, bodies[i])
  end
  local claiming = load_late("claiming")
  return claiming.run()
end
local missing = ""
if acks > 0 then
  local lost = 0
  if redis.call("HDEL", records, unpack(ARGV, 10)) == acks then
    redis.call("ZREM", unacked, unpack(ARGV, 10))
  else
    local receipts = load_late("receipts")
    local positions = receipts.ack(unacked, records, { unpack(ARGV, 10) })
    lost, missing = #positions, #positions > 0 and " 1 " .. table.concat(positions, " 1 ") or ""
  end
  if lost < acks then
    redis.call("HINCRBY", stats, "acked", acks - lost)
  end
end
local header, deadline, held, scores, out = "1 1 " .. now .. " ", string.format("%.0f", now + lease), {}, {}, { "" }
for i = 1, take do
  local name, body = names[i], bodies[i]
  held[2 * i - 1], held[2 * i] = name, header .. body
  scores[2 * i - 1], scores[2 * i] = deadline, name
  out[5 * i - 3], out[5 * i - 2], out[5 * i - 1], out[5 * i], out[5 * i + 1] = 1, name, 1, 1, body
end
redis.call("HSET", records, unpack(held))
redis.call("ZADD", unacked, unpack(scores))
if left > 0 and not has_token then
  redis.call("RPUSH", tokens, "1")
elseif left == 0 and has_token then
  redis.call("DEL", tokens)
end
out[1] = now .. (left > 0 and " -1 1 1" or " -1 0") .. missing
return out
