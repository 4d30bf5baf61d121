-- What a claim is asked for: its arguments, into `call`.
local limits = require("lib.limits")

local M = {}
local FIXED = 11 -- keys of a queue before its ready lists

-- Reads those of one queue, most of which `claim` has found sound. False where others are not: the long way says why.
local function read_sound(call)
  local renew, company, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[9]), tonumber(ARGV[7]) or 0
  local steps = tonumber(ARGV[8]) or 0
  if steps < 1 or steps > 10 or max_bytes < 1 or company > limits.LONGEST_MS or #ARGV[10] > 32
    or string.find(ARGV[5] .. ARGV[8], "%D") or not renew or renew < 1 or renew > limits.LONGEST_MS then
    return false
  end
  call.attempt, call.limit, call.lease, call.renew = 0, tonumber(ARGV[3]), tonumber(ARGV[4]), renew
  call.max_deliveries, call.max_bytes, call.steps = tonumber(ARGV[6]), max_bytes, steps
  call.company, call.keep, call.acks = company, ARGV[10], { { unpack(ARGV, 12) } }
  return true
end

-- `is_sound`: see above. Answers what is wrong, or false.
function M.read(call, is_sound)
  call.claim_id = ARGV[1]
  if not (is_sound and read_sound(call)) then
    local args = require("lib.args")
    args.text("claim_id", 96)
    call.attempt, call.limit = args.int("attempt", 0, 9), args.int("limit", 0, 1000)
    call.lease, call.renew = args.int("lease_ms", 1, limits.LONGEST_MS), args.int("renew_ms", 1, limits.LONGEST_MS)
    call.max_deliveries = args.int("max_deliveries", 0, limits.MOST)
    call.max_bytes, call.steps = args.int("max_bytes", 1, limits.MOST_BYTES), args.int("steps", 1, 10)
    call.company, call.keep = args.int("company", 0, limits.LONGEST_MS), args.text("keep", 32)
    local width = FIXED + call.steps
    if #KEYS % width > 1 or #KEYS < width then
      return "BADARG KEYS: " .. #KEYS .. " is not a multiple of " .. width
    end
    call.acks = {}
    for q = 1, #KEYS / width do
      call.acks[q] = args.group("acks", 1000)
    end
    if args.done() then
      return args.fault
    end
  end
  call.consumer = string.match(call.claim_id, "^(.+)%-%d+$")
  return not call.consumer and "BADARG claim_id: not <consumer>-<counter>"
end

return M
