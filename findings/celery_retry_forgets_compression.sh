#!/usr/bin/env bash
# Celery: a retry keeps queue, priority, expiry, limits and stamps of the call, and forgets its compression and its own properties
#
# Guess: `self.retry()` sends the same message again, an attempt later: what `apply_async` was given for it holds for each try.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): headers, serializer, queue, priority, expires, both time limits, shadow, stamps
# and reply_to stay. `compression`, `delivery_mode` and a property of the caller's are those of the first message alone. So a
# task with 100 KB of text that was sent with gzip waits for its retry as 100 KB.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu import Queue

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
app.conf.accept_content = ["json", "pickle"]
app.conf.task_queues = [Queue("celery"), Queue("other")]
tries = []

@app.task(bind=True, max_retries=1)
def task(self, text):
    request = self.request
    tries.append({
        "queue": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
        "expires": request.expires,
        "time limits": request.timelimit,
        "shadow": request.shadow,
        "header": request.headers["tenant"],
        "stamp": request.stamps,
        "reply_to": request.reply_to,
        "delivery_mode": request.properties["delivery_mode"],
        "own property": request.properties.get("customer"),
        "compression": getattr(request, "compression", None),
    })
    if not request.retries:
        raise self.retry(countdown=0)

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    signature = task.s("x" * 100_000)
    signature.stamp(batch="7")
    signature.apply_async(
        queue="other", priority=6, expires=60, time_limit=50, soft_time_limit=40, shadow="name", headers={"tenant": "t"},
        serializer="pickle", compression="gzip", reply_to="me", delivery_mode=1, customer="c",
    )
    end = time.monotonic() + 10
    while len(tries) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    first, second = tries
    for name in first:
        print(name, "|", "kept" if first[name] == second[name] else f"{first[name]}, then {second[name]}", flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
queue | kept
priority | kept
expires | kept
time limits | kept
shadow | kept
header | kept
stamp | kept
reply_to | kept
delivery_mode | 1, then 2
own property | c, then None
compression | application/x-gzip, then None
EOF
