-- What `find` answers of a message: eight values for each, one behind the other.
local bands = require("lib.bands")
local dead = require("lib.dead")
local message = require("lib.message")
local record = require("lib.record")

local M = { values = {} }
local cancelled = KEYS[8]

local function add(...)
  local values = M.values
  local n = #values
  for i, value in ipairs({ ... }) do
    values[n + i] = value
  end
end

function M.delayed(id, due, held, is_sure)
  local deliveries, step, ms, body = record.split(held)
  add("delayed", is_sure and 1 or 0, id, due % bands.SIZE, deliveries or 0, step or 1,
    ms and string.format("%.0f", ms) or "", body or held)
end

-- Answers whether its holder is asked to stop.
function M.held(receipt, score, held, is_sure)
  local deliveries, step, ms, body = record.split(held)
  local about, is_cancelling = ms and string.format("%.0f", ms) or "", false
  if tonumber(score) >= bands.APART * bands.SIZE then
    about = about .. " 2"
  elseif redis.pcall("HEXISTS", cancelled, "!" .. receipt) == 1 then
    about, is_cancelling = about .. " 1", true
  end
  add("unacked", is_sure and 1 or 0, receipt, math.floor(score % bands.SIZE), deliveries or 0, step or 1, about,
    body or held)
  return is_cancelling
end

function M.letter(entry, is_sure)
  local letter = dead.fields(entry)
  add("dead", is_sure and 1 or 0, entry[1], -1, tonumber(letter.deliveries) or 0, tonumber(letter.step) or 1,
    letter.reason .. "\n" .. letter.detail, letter.message)
end

function M.ready(step, body)
  add("ready", 0, "", -1, (message.head(body)), step, "", body)
end

return M
