-- What a claim does with the messages of one queue: hand them out under a lease. What it does not is in lib/aside.
-- `this` is the queue as it was read, `call` is what all queues of the claim share.
local bands = require("lib.bands")
local record = require("lib.record")
local shape = require("lib.shape")

local M = {}
local MOST_ASIDE = 100 -- a claim that sent so many to dead letters, or apart, stops, though it has room for more
local TASTE = 4 -- popped first, while their sizes are unknown: a message may have 10 MB
local NOTHING = { deliveries = 0, spared = 0, expires = 0 } -- is said of most messages

function M.change(this, field, value)
  this.changes[#this.changes + 1], this.changes[#this.changes + 2] = field, value
end

-- How many more messages may be handed out.
function M.room(call)
  return call.bytes < call.max_bytes and call.aside < MOST_ASIDE and call.limit - call.count or 0
end

-- How many of them surely fit, if none is larger than the largest ever seen.
function M.fitting(this, call)
  local free, space = M.room(call), call.max_bytes - call.bytes
  if free * this.largest > space then
    free = math.min(free, math.max(1, math.floor(space / this.largest)))
  end
  return free
end

-- Why a message of which this is said (see lib/message) may not be delivered (again); false if it may. What was spared
-- does not count.
function M.reason(call, said)
  return call.max_deliveries > 0 and said.deliveries + 1 - said.spared > call.max_deliveries and "max_deliveries"
    or said.expires > 0 and said.expires <= call.now and "expired"
end

-- Into the answer's head: so many more messages, which are alike but for their bytes.
function M.add_run(this, call, deliveries, step, many)
  local runs = call.runs
  local n = #runs
  if n > 0 and runs[n - 3] == this.index and runs[n - 2] == deliveries and runs[n - 1] == step then
    runs[n] = runs[n] + many
  elseif many > 0 then
    runs[n + 1], runs[n + 2], runs[n + 3], runs[n + 4] = this.index, deliveries, step, many
  end
end

-- Collect leases for bodies[from] to bodies[to], of which the same is said; those that may not be delivered (again) go
-- to dead letters. Answers where it stopped: behind the last, or where the bytes were spent.
function M.hand(this, call, said, step, bodies, from, to)
  local reason, deliveries = M.reason(call, said), said.deliveries + 1
  if reason then
    local aside = require("lib.aside")
    for i = from, to do
      if this.cancels and aside.was_cancelled(this, call, bodies[i]) then
        call.bytes = call.bytes + #bodies[i]
      else
        aside.dead_letter(this, call, reason, deliveries - 1, step, bodies[i])
      end
    end
    return to + 1
  end
  local known = deliveries * 16 + step
  if call.known ~= known then -- mostly all are alike
    call.known, call.header = known, record.header(deliveries, step, call.now_text)
    -- A number that goes to the server once is not made text before.
    call.deadline = call.limit > 1 and bands.score(step, call.now + call.lease)
      or bands.at(step, call.now + call.lease) + (call.is_sole and 0.5 or 0)
  end
  local header, deadline, receipts = call.header, call.deadline, call.receipts
  local held, scores, out, count, bytes = call.held, call.scores, call.out, call.count, call.bytes
  local n, most, may_be_tracked, byte = #held, call.max_bytes, said.may_be_tracked, string.byte
  for i = from, to do
    if bytes >= most then
      to = i - 1
      break
    end
    local body, receipt = bodies[i], receipts[count + 1]
    local is_odd, is_dropped = may_be_tracked and byte(body, 3) == 120, false -- it may be tracked: "x-...
    if is_odd and this.cancels then
      local aside = require("lib.aside")
      is_dropped = aside.was_cancelled(this, call, body)
    end
    if not is_dropped then
      out[count + 2] = body
      held[n + 1], held[n + 2] = receipt, header .. body
      scores[n + 1], scores[n + 2] = deadline, receipt
      if is_odd then
        local tracking = require("lib.tracking")
        this.tracked = tracking.note(this.tracked, body, "h", call.us, receipt)
      end
      count, n = count + 1, n + 2
    end
    bytes = bytes + #body
  end
  M.add_run(this, call, deliveries, step, count - call.count)
  call.count, call.bytes = count, bytes
  return to + 1
end

-- Write the leases that were collected.
function M.lease(this, call)
  local n = #call.held / 2
  if n > 0 then
    redis.call("HSET", KEYS[this.at + 2], unpack(call.held))
    redis.call("ZADD", KEYS[this.at + 1], unpack(call.scores))
    call.last_at, call.last_score = this.at, call.scores[2 * n - 1]
    this.delivered, call.held, call.scores = this.delivered + n, {}, {}
  end
end

-- Hand out what is ready in one step.
function M.pop(this, call, step)
  local key, size = KEYS[this.at + 11 + step], this.sizes[step]
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
      at = M.hand(this, call, NOTHING, step, bodies, 1, n)
    end
    while at <= n and M.room(call) > 0 do
      local said = odd[at]
      if said == false then
        local aside = require("lib.aside")
        aside.dead_letter(this, call, "undecodable", 0, step, bodies[at])
        at = at + 1
      else
        said = said or NOTHING
        if said.spared > said.deliveries then -- any program may have written it
          local message = require("lib.message")
          said.spared = said.deliveries
          bodies[at] = message.spare(bodies[at], said.spared)
        end
        if said.spared > 1 then
          local apart = require("lib.apart")
          apart.send(this, call, said, step, bodies[at], false, true)
          at = at + 1
        else
          at = M.hand(this, call, said, step, bodies, at, at)
        end
      end
    end
    M.lease(this, call)
    for i = n, at, -1 do -- larger than any before: what found no room goes back to where it was
      redis.call("RPUSH", key, bodies[i])
    end
    size, this.left = size - at + 1, this.left - at + 1
  end
end

return M
