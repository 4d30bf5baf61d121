-- What a script sees inside Redis 6.2, 7.0 and Valkey 9, and nothing else: a misspelt KEYS, a leaked
-- global or a function the sandbox does not have is an error here rather than on the server.
stds.redis = {
  read_globals = {
    KEYS = {other_fields = true},
    ARGV = {other_fields = true},
    redis = {fields = {
      "call", "pcall", "error_reply", "status_reply", "sha1hex", "log", "setresp", "breakpoint", "debug",
      "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING",
    }},
    cjson = {fields = {"encode", "decode", "null"}},
    cmsgpack = {fields = {"pack", "unpack"}},
    struct = {fields = {"pack", "unpack", "size"}},
    bit = {other_fields = true},
    math = {other_fields = true},
    string = {other_fields = true},
    table = {other_fields = true},
    -- resolved when the script is bundled, never at run time
    require = {},
    -- the rest of Lua 5.1 that the sandbox leaves
    "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawset",
    "select", "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall", "_VERSION", "_G",
  },
}
std = "redis"
max_line_length = 120
