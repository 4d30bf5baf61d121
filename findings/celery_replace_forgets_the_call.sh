#!/usr/bin/env bash
# Celery: `self.replace` forgets how the task was called: its queue, priority, expiry, time limits, headers and stamps
#
# Guess: the replacement takes the task's place, under its id, so it goes where the task was sent and as it was sent, as a
# retry does.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): a retry keeps all of them, a replacement none: it goes to the queue of its
# own route, here the default one, with priority 0, without an expiry, limits or headers. A worker that reads only the
# urgent queue never sees it. A header with the tenant or the trace is lost. Its id, and so its result, is the task's.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu import Queue

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
app.conf.task_queues = [Queue("celery"), Queue("urgent")]

def as_sent(task):
    r = task.request
    sent = r.delivery_info
    return (f"queue {sent['routing_key']}, priority {sent['priority']}, expires {bool(r.expires)}, limits {r.timelimit}, "
            f"headers {r.headers}, stamps {r.stamps}")

@app.task(bind=True)
def direct(self):
    return as_sent(self)

@app.task(bind=True)
def retried(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return as_sent(self)

@app.task(bind=True)
def replaced(self):
    raise self.replace(direct.si())

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for task in (direct, retried, replaced):
        call = task.si()
        call.stamp(trace="t1")
        result = call.apply_async(queue="urgent", priority=5, expires=60, time_limit=50, headers={"tenant": "a"})
        print(task.__name__, "|", result.get(timeout=10), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
direct | queue urgent, priority 5, expires True, limits [50, None], headers {'tenant': 'a'}, stamps {'trace': 't1'}
retried | queue urgent, priority 5, expires True, limits [50, None], headers {'tenant': 'a'}, stamps {'trace': 't1'}
replaced | queue celery, priority 0, expires False, limits [None, None], headers None, stamps {}
EOF
