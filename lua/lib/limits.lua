-- Numbers that several scripts hold to. They are written into the scripts when those are bundled, and cost nothing.
local M = {}

M.BAND = 4398046511104 -- 2^42: a band of scores, see lib/bands
M.LAST_MS = 4398046511103 -- the last ms a band holds: 15 May 2109
M.LONGEST_MS = 31622400000 -- of leases and what is kept: a year and a day
M.HOUR_MS = 3600000
M.RESOLUTION_MS = 250 -- `seen` and `quiet` of a queue are written no more often than that, see lib/outage, lib/quiet
M.TRACKED_US = 86400000000 -- a record of a tracked message is kept for so long at least, see lib/tracking
M.SECOND_US = 1000000
M.SMALL = 8192 -- bytes: below this the size of a message does not limit how many are popped at once
M.MOST_BYTES = 1073741824 -- that a call may ask to move
M.LARGEST = 536870912 -- bytes of one argument: what a server takes
M.MOST_ENTRIES = 4294967296 -- 2^32: a key has fewer
M.MOST = 1000000000 -- deliveries; messages passed over

return M
