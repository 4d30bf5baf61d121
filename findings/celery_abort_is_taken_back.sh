#!/usr/bin/env bash
# Celery: an abort is taken back by the task's next state: by STARTED with `task_track_started`, by a report of its progress
#
# Guess: `AbortableAsyncResult.abort()` is a request that stays until the task asks `is_aborted()`; a task that had not begun
# finds it when it begins, and a report of progress does not answer it.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport, result backend in memory): an abort is nothing but the state ABORTED in the
# result's one record. With `task_track_started` what was aborted before it began writes STARTED over it and runs to its end. So
# does each task that reports its progress by `update_state` and then asks: it never hears of the abort, with the setting or
# without. And an abort of a task that has failed already makes its FAILURE, with the error, ABORTED.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, threading
from celery import Celery
from celery.contrib.abortable import AbortableTask
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
running, aborted = threading.Event(), threading.Event()

@app.task(bind=True, base=AbortableTask)
def work(self, report_first):
    for step in range(3):
        if report_first:
            self.update_state(state="PROGRESS", meta={"step": step})
        if self.is_aborted():
            return f"aborted at step {step}"
        if not report_first:
            self.update_state(state="PROGRESS", meta={"step": step})
        running.set()
        aborted.wait(10)
    return "ran to its end"

@app.task(bind=True, base=AbortableTask)
def fail(self):
    raise ValueError("no")

def abort_while_it_runs(report_first):
    running.clear(), aborted.clear()
    result = work.delay(report_first)
    running.wait(10)
    result.abort()
    aborted.set()
    return result.get(timeout=10)

def abort_before_it_begins():
    aborted.set()
    result = work.apply_async((False,), countdown=1)
    result.abort()
    result = work.AsyncResult(result.id)
    while result.state not in ("SUCCESS", "FAILURE"):
        threading.Event().wait(0.05)
    return result.result

for track in (False, True):
    app.conf.task_track_started = track
    work.track_started = track
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
        print(f"task_track_started={track}")
        print("  aborted before it begins:", abort_before_it_begins())
        print("  while it runs, asks and then reports:", abort_while_it_runs(False))
        print("  while it runs, reports and then asks:", abort_while_it_runs(True), flush=True)
        if track:
            failed = fail.delay()
            try:
                failed.get(timeout=10)
            except ValueError:
                failed.abort()
            failed = fail.AsyncResult(failed.id)
            print("after a failure:", failed.state, failed.result, flush=True)
            os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
task_track_started=False
  aborted before it begins: aborted at step 0
  while it runs, asks and then reports: aborted at step 1
  while it runs, reports and then asks: ran to its end
task_track_started=True
  aborted before it begins: ran to its end
  while it runs, asks and then reports: aborted at step 1
  while it runs, reports and then asks: ran to its end
after a failure: ABORTED None
EOF
