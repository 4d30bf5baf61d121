#!/usr/bin/env bash
# Celery: `retry(max_retries=1)` of one task is from then on the limit of all that `autoretry_for` retries in that process
#
# Guess: what a task passes to its own `retry()` holds for that call; other messages of the task have the limit of its decorator.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): where the task has `autoretry_for`, the limit stays at the task, an object of
# the whole process. So behind one that asked for a limit of 1, one at its second of five retries fails for good, and behind one
# that asked for 9 they go on past their five; the one after that too. Without `autoretry_for` it is as guessed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("t", broker="memory://", backend="cache+memory://")
app.conf.worker_hijack_root_logger = False
runs = []

def work(self, fails, limit=None):
    if limit is not None:
        if self.request.retries:
            return
        raise self.retry(countdown=0, max_retries=limit)
    runs.append(self.request.retries)
    try:
        raise ValueError
    except ValueError:
        if "own" in self.name:
            raise self.retry(countdown=0)
        raise

options = {"bind": True, "max_retries": 5, "default_retry_delay": 0}
tasks = [
    app.task(name="autoretry_for", autoretry_for=(ValueError,), **options)(work),
    app.task(name="its own retry()", **options)(work),
]
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for task in tasks:
        for retries, limit, where in (
            (2, None, "before that"), (2, 1, "behind max_retries=1"), (2, None, "and after that"),
            (5, 9, "behind max_retries=9"), (5, None, "and after that"),
        ):
            if limit is not None:
                task.delay(False, limit).get(timeout=20)
            runs.clear()
            result = task.apply_async((True,), retries=retries)
            result.get(timeout=20, propagate=False)
            print(f"{task.name}, {where}: runs at retry", *runs, result.state)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
autoretry_for, before that: runs at retry 2 3 4 5 FAILURE
autoretry_for, behind max_retries=1: runs at retry 2 FAILURE
autoretry_for, and after that: runs at retry 2 FAILURE
autoretry_for, behind max_retries=9: runs at retry 5 6 7 8 9 FAILURE
autoretry_for, and after that: runs at retry 5 6 7 8 9 FAILURE
its own retry(), before that: runs at retry 2 3 4 5 FAILURE
its own retry(), behind max_retries=1: runs at retry 2 3 4 5 FAILURE
its own retry(), and after that: runs at retry 2 3 4 5 FAILURE
its own retry(), behind max_retries=9: runs at retry 5 FAILURE
its own retry(), and after that: runs at retry 5 FAILURE
EOF
