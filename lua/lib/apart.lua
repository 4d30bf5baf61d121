-- A delivery that ends unsettled is no evidence against its message if the consumer held others. Such a message is
-- spared (see lib/message). A message spared twice goes alone: it is the only one that a claim hands out, to a consumer
-- that holds nothing else, and only then its end counts. Until such a claim comes it waits in bands of its own of
-- `unacked`, where no other claim reads it.
local bands = require("lib.bands")
local due = require("lib.due")
local delivering = require("lib.delivering")
local limits = require("lib.limits")
local record = require("lib.record")

local M = {}
local PATIENCE = 1200 -- ms; a consumer that waits has looked once by then, so there is none that holds nothing
local LONGEST = limits.HOUR_MS -- ms that a consumer is asked to claim nothing

-- For how many ms the last one was asked to.
local function last_drain(this)
  return tonumber(redis.call("HGET", KEYS[this.at + 7], "drain_ms")) or 0
end

-- Hand it out, if this claim may and has nothing yet; else set it apart, or dead-letter it. `name`: what it was held
-- under, or false. Not `may`: there is more in hand that must be handed out.
function M.send(this, call, said, step, body, name, may)
  if may and call.company == 0 and call.count == 0 or delivering.reason(call, said) then
    local before = call.count
    delivering.hand(this, call, said, step, { body }, 1, 1)
    if call.count > before then -- it is handed out, and nothing beside it
      call.limit = call.count
      delivering.change(this, "drain_until", 0)
      -- The next is asked for half as long.
      delivering.change(this, "drain_ms", string.format("%.0f", last_drain(this) / 4))
    end
    return
  end
  call.aside, call.bytes, this.parked = call.aside + 1, call.bytes + #body, (this.parked or 0) + 1
  local number = call.aside -- the last attempt of a claim may be sent again, and make these names twice
  while not name or number > call.aside and redis.call("HGET", KEYS[this.at + 2], name) do
    name = string.format("%s.apart%03d", call.id, number)
    number = number + 1
  end
  redis.call("HSET", KEYS[this.at + 2], name, record.header(said.deliveries, step, call.now_text) .. body)
  redis.call("ZADD", KEYS[this.at + 1], bands.at(step + bands.APART, call.now) + 0.5, name)
  if string.byte(body, 3) == 120 then -- "x-..., see lib/tracking
    local tracking = require("lib.tracking")
    this.tracked = tracking.note(this.tracked, body, "h", call.us, name)
  end
  delivering.change(this, "quiet", 0)
end

-- The oldest of a step, and of the steps behind it up to `last`.
function M.due(this, step, last, now)
  return due.now(KEYS[this.at + 1], step + bands.APART, last + bands.APART, now, 1)
end

-- Some have waited for long: let one consumer come to hold nothing. When its time is over in vain, another one (or it)
-- has twice as much, so that however many there are, one has enough soon.
function M.elect(this, call)
  if call.company > 1 and #M.due(this, 1, this.steps, this.ended - PATIENCE) > 0
    and (tonumber(redis.call("HGET", KEYS[this.at + 7], "drain_until")) or 0) <= call.now then
    local ms = math.min(math.max(call.company, 2 * last_drain(this)), LONGEST)
    delivering.change(this, "drain_until", call.now + ms)
    delivering.change(this, "drain_ms", string.format("%.0f", ms))
    call.drain = math.max(call.drain, ms)
  end
end

return M
