#!/usr/bin/env bash
# Celery: with `autoretry_for=(Exception,)` a task that raises Reject is not rejected but retried; Ignore is left alone
#
# Guess: Ignore, Reject and Retry are Celery's own words, which autoretry passes on, as `acks_late` and `Reject(requeue=False)`
# are the way to a dead letter.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): Ignore and Retry pass, Reject counts as an error, and
# the task runs once more for each of its retries, with their delays, before the last Reject gets through. With
# `dont_autoretry_for=(Reject,)` it is rejected at once. And `retry_backoff=0.2` waits a second: backoffs are whole seconds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
app.conf.task_acks_late = True
runs = []

def task(name, error, **options):
    def run():
        runs.append(time.monotonic())
        raise error
    return app.task(name=name, max_retries=3, **options)(run)

auto = {"autoretry_for": (Exception,), "retry_kwargs": {"countdown": 0}}
tasks = [
    task("Reject", Reject("no", requeue=False)),
    task("Ignore, autoretry", Ignore(), **auto),
    task("Reject, autoretry", Reject("no", requeue=False), **auto),
    task("Reject, autoretry, dont_autoretry_for", Reject("no", requeue=False), dont_autoretry_for=(Reject,), **auto),
    task("ValueError, retry_backoff=0.2", ValueError(), autoretry_for=(ValueError,), retry_backoff=0.2, retry_jitter=False),
]
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for each in tasks:
        runs.clear()
        result = each.delay()
        time.sleep(2.2)
        pauses = [b - a for a, b in zip(runs, runs[1:])]
        if "backoff" in each.name:
            print(each.name, "| first pause is at least a second:", pauses[0] >= 0.9, flush=True)
        else:
            print(each.name, "| runs", len(runs), "| state", result.state, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
Reject | runs 1 | state FAILURE
Ignore, autoretry | runs 1 | state PENDING
Reject, autoretry | runs 4 | state FAILURE
Reject, autoretry, dont_autoretry_for | runs 1 | state FAILURE
ValueError, retry_backoff=0.2 | first pause is at least a second: True
EOF
