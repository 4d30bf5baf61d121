#!/usr/bin/env bash
# Celery's State of events, which Flower and exporters ask: a task that raised Ignore stays STARTED, and each retry is one more task
#
# Guess: every task that ended has a last event and a state that is over; `task_count` is how many tasks there were.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): no event follows `task-started` when a task raises Ignore, so what counts
# running tasks by State counts it until it is dropped from memory. A Reject without requeue
# is a `task-failed`. Each retry adds one to `task_count`, though `tasks` has it once.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, threading, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.update(worker_hijack_root_logger=False, worker_send_task_events=True, task_track_started=True)

@app.task(name="succeeds")
def succeeds():
    pass

@app.task(name="rejects")
def rejects():
    raise Reject("no", requeue=False)

@app.task(name="ignores")
def ignores():
    raise Ignore

@app.task(name="retries", bind=True, max_retries=2)
def retries(self):
    if self.request.retries < 2:
        self.retry(countdown=0)

heard, states = {}, app.events.State()

def hear(event):
    if event["type"].startswith("task-"):
        states.event(event)
        heard.setdefault(event["uuid"], []).append(event["type"][5:])

def listen():
    with app.connection() as connection:
        app.events.Receiver(connection, handlers={"*": hear}).capture(limit=None, timeout=None, wakeup=False)

threading.Thread(target=listen, daemon=True).start()
time.sleep(1)
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for task in (succeeds, rejects, ignores, retries):
        before, result = states.task_count, task.delay()
        last = {"rejects": "failed", "ignores": "started"}.get(task.name, "succeeded")
        end = time.monotonic() + 20
        while time.monotonic() < end and last not in heard.get(result.id, ()):
            time.sleep(0.05)
        time.sleep(2)
        print(task.name, "|", " ".join(heard[result.id]), "| state", states.tasks[result.id].state,
              "| counted", states.task_count - before, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
succeeds | received started succeeded | state SUCCESS | counted 1
rejects | received started failed | state FAILURE | counted 1
ignores | received started | state STARTED | counted 1
retries | received started retried received started retried received started succeeded | state SUCCESS | counted 3
EOF
