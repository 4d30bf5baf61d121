-- Records that a claim reads, as runs of those of which the same is said: nearly all are alike and have no head.
local record = require("lib.record")

local M = {}

-- A run of one: what is said of the message in this record (see lib/message), and how long the record's header is. Its
-- `deliveries` is false if it is no record. `more`: it was spared so often besides.
local function open(text, more)
  local deliveries, size = record.header_of(text)
  if not deliveries then
    return { deliveries = false, spared = 0 }, 0
  elseif string.byte(text, size + 3) ~= 120 then -- it has no head: not "x-...
    return { deliveries = deliveries, spared = math.min(more, deliveries), expires = 0, has_no_head = true }, size
  end
  local message = require("lib.message")
  local run = message.said(string.sub(text, size + 1), deliveries)
  run.spared = math.min(run.spared + more, deliveries)
  return run, size
end

-- What is in these records, as far as it fits: how many, their messages, and the runs. Of one that begins as the one
-- before it no more is looked at. A message that goes alone is taken by itself, if this claim has nothing yet, and the
-- others stay where they are.
function M.read(this, call, held, ended_alone, at)
  local bodies, runs, sub, byte = {}, {}, string.sub, string.byte
  local bytes, most, largest = call.bytes, call.max_bytes, this.largest
  local has_nothing, run, header, size, front, was_alone = call.company + call.count == 0, nil, nil, nil, nil, nil
  for i = 1, #held do
    local text, is_alone = held[i] or "", ended_alone and ended_alone[at + i]
    local body
    if bytes >= most then -- they are larger than any before
      return i - 1, bodies, runs
    elseif header and is_alone == was_alone and sub(text, 1, size) == header and byte(text, size + 3) ~= 120 then
      body, run.to = front and front .. sub(text, size + 2) or sub(text, size + 1), i
    else
      run, size = open(text, is_alone == false and 1 or 0)
      if run.spared > 1 and has_nothing and i > 1 then
        return i - 1, bodies, runs
      end
      body, run.from, run.to, runs[#runs + 1] = sub(text, size + 1), i, i, run
      front, was_alone = nil, is_alone
      if run.deliveries and not (run.has_no_head and run.spared == 0) then
        local message = require("lib.message")
        body, front = message.spare(body, run.spared), run.has_no_head and message.front(run.spared)
      end
      header = run.has_no_head and not this.cancels and sub(text, 1, size) -- each is looked for by itself then
    end
    bodies[i], bytes = body, bytes + #body
    if #body > largest then
      largest = #body
      this.largest = largest
    end
    if run.spared > 1 and has_nothing then
      return 1, bodies, runs
    end
  end
  return #held, bodies, runs
end

return M
