-- What a claim meets and does not hand out: it dead-letters it, or drops what was cancelled. Each counts towards what
-- one claim may do, see `room` in lib/delivering.
local cancelled = require("lib.cancelled")
local dead = require("lib.dead")
local tracking = require("lib.tracking")

local M = {}

local function drop(this, call, key)
  this.dropped, call.aside, call.freed = (this.dropped or 0) + 1, call.aside + 1, true
  if redis.call("HLEN", key) == 0 then
    this.changes[#this.changes + 1], this.changes[#this.changes + 2] = "cancels", 0
  end
  return true
end

-- Drop it if it was cancelled while it was held under this receipt; whether it was.
function M.was_revoked(this, call, body, receipt)
  local key = KEYS[this.at + 11]
  if redis.pcall("HDEL", key, "!" .. receipt) ~= 1 then
    return false
  end
  this.tracked = tracking.note(this.tracked, body, "x", call.us)
  return drop(this, call, key)
end

-- Drop it if it was cancelled while it was ready, which only a tracked one can be; whether it was.
function M.was_cancelled(this, call, body)
  local key, name, since = KEYS[this.at + 11], tracking.of(body)
  local is_taken, is_put_again = cancelled.take(key, name or "", since or 0)
  if is_taken and not is_put_again then
    this.tracked = tracking.note(this.tracked, body, "x", call.us)
  end
  return is_taken and drop(this, call, key)
end

-- `detail`: the id, where the message will not say it.
function M.dead_letter(this, call, reason, deliveries, step, body, detail)
  local id = dead.add(KEYS[this.at + 5], reason, detail or "", deliveries, step, body)
  this.tracked = tracking.note(this.tracked, body, "d", call.us, id)
  this.first_death, this.last_death = this.first_death or id, id
  this.reasons = this.reasons or {}
  this.reasons[reason] = (this.reasons[reason] or 0) + 1
  this.deaths, call.aside, call.bytes = (this.deaths or 0) + 1, call.aside + 1, call.bytes + #body
end

-- Into the answer: the dead letters that this claim made. The keys of their results are not among its own, so the
-- consumer stores the results by `tell`. Which letters they are is kept for a retry.
function M.report(this, call)
  if this.deaths then
    this.changes[#this.changes + 1] = "deaths"
    this.changes[#this.changes + 1] = call.claim_id .. " " .. this.first_death .. " " .. this.last_death
  end
  local entries = redis.call("XRANGE", KEYS[this.at + 5], this.first_death, this.last_death)
  local out = call.dead_lettered or {}
  call.dead_lettered = out
  for i = 1, #entries do
    local letter, n = dead.fields(entries[i]), #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = this.index, letter.reason, letter.detail, letter.message
  end
end

-- Count them by reason, and keep no more than `keep` says. Behind the first write that grows.
function M.count(this, call)
  local stats = KEYS[this.at + 8]
  for reason, n in pairs(this.reasons) do
    dead.count(stats, n, reason)
  end
  if call.keep ~= "" then
    dead.bound(KEYS[this.at + 5], stats, call.keep, this.last_death)
  end
end

return M
