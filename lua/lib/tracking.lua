-- Where tracked messages are: a record each, written by the very script that moves the message.
--
-- A tracked message carries its id behind its head, percent-encoded: {"x-tracked":"<id>","body":... When it is put, a
-- string of its own says so, which expires. All later records are fields of two hashes that take turns, a day each by
-- the server's clock, and expire as a whole: one that was not written for a day is in the older one, and after two days
-- at most it is gone. `find` holds a record against what is really there, so one that is old or missing tells no lie.
--
-- A record is `<state> <microseconds> <name>`: r ready, w delayed, h held (its receipt), d dead (the id of the letter),
-- a done, x cancelled. Behind a line feed, what its holder says of its progress.
local limits = require("lib.limits")
local message = require("lib.message")

local M = {}
local TURN = limits.TRACKED_US

-- The id of a message as its records have it; nil if it is not tracked. And when it was put (ms), if others with its id
-- were cancelled before, else 0.
function M.of(body)
  if string.byte(body, 3) ~= 120 then -- "x-...
    return nil
  end
  local _, _, rest = message.head(body)
  local id, since = string.match(body, '^"x%-tracked": ?"([^"\\ ]+) ?(%d*)"', rest)
  return id, tonumber(since) or 0
end

function M.text(state, us, name)
  return string.format("%s %.0f %s", state, us, name or "")
end

-- Note a move of this message, if it is tracked, for `write`. Answers the notes.
function M.note(notes, body, state, us, name)
  local id = M.of(body)
  if id then
    notes = notes or {}
    notes[#notes + 1], notes[#notes + 2] = id, M.text(state, us, name)
  end
  return notes
end

-- These, by id, are done.
function M.done(notes, ids, us)
  notes = notes or {}
  for i = 1, #ids do
    notes[#notes + 1], notes[#notes + 2] = ids[i], M.text("a", us)
  end
  return notes
end

function M.now()
  local t = redis.call("TIME")
  return t[1] * limits.SECOND_US + t[2]
end

-- Into the hash whose turn it is: KEYS[first] or the key behind it.
function M.write(first, notes, us)
  if notes and #notes > 0 then
    local turn = math.floor(us / TURN)
    local key = KEYS[first + turn % 2]
    -- Moving a message matters more: should this be a key of another type, there is no record.
    local new = redis.pcall("HSET", key, unpack(notes))
    if type(new) == "number" and new > 0 then -- it may have begun now
      redis.call("PEXPIRE", key, string.format("%.0f", ((turn + 2) * TURN - us) / 1000))
    end
  end
end

-- The newest record of an id, and its state; "" if there is none. KEYS[put] is what says that it was put.
function M.newest(id, first, put, us)
  local turn, best, at = math.floor(us / TURN) % 2, "", -1
  local found = { redis.pcall("HGET", KEYS[first + turn], id), redis.pcall("HGET", KEYS[first + 1 - turn], id),
    redis.pcall("GET", KEYS[put]) }
  for i = 1, 3 do
    local ms = type(found[i]) == "string" and tonumber(string.match(found[i], "^%l (%d+) "))
    if ms and ms > at then
      best, at = found[i], ms
    end
  end
  return best, string.sub(best, 1, 1)
end

-- They were put: KEYS[first] to KEYS[last], or those of a list.
function M.put(state, us, first, last, list)
  local text = M.text(state, us)
  for i = first, last do
    redis.call("SET", KEYS[list and list[i] or i], text, "PX", 2 * TURN / 1000)
  end
end

return M
