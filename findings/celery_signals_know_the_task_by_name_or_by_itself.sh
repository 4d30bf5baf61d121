#!/usr/bin/env bash
# Celery: `sender=` of a signal is a task's name for those of sending, the task itself for those of running, and neither for `task_received`
#
# Guess: a receiver connected with `sender=pay` is called for that task, whichever signal about tasks it is; a sender that a
# signal never has is refused when it is connected, or the name does as well as the task.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): before_ and after_task_publish compare with the name, task_prerun,
# postrun, success, failure, retry and revoked with the task object. task_received has another sender, the worker's consumer, so
# neither matches. A receiver that was connected with the wrong kind is never called, and nothing says so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})

@app.task(name="shop.pay", bind=True, max_retries=1)
def pay(self, what=None):
    if what == "fail":
        raise ValueError
    if what == "retry" and not self.request.retries:
        raise self.retry(countdown=0)

NAMES = ("before_task_publish after_task_publish task_received task_prerun task_postrun task_success task_failure "
         "task_retry task_revoked").split()
called = set()
for name in NAMES:
    for kind, sender in (("any", None), ("name", "shop.pay"), ("task", pay)):
        def receiver(kind=kind, name=name, **arguments):
            called.add((name, kind))
        getattr(signals, name).connect(receiver, sender=sender, weak=False)

with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
    for what in ("work", "fail", "retry"):
        pay.delay(what)
    pay.apply_async(countdown=1).revoke()
    end = time.monotonic() + 20
    while {(name, "any") for name in NAMES} - called and time.monotonic() < end:
        time.sleep(0.05)
    for name in NAMES:
        print(name, "|", *(kind for kind in ("any", "name", "task") if (name, kind) in called), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
before_task_publish | any name
after_task_publish | any name
task_received | any
task_prerun | any task
task_postrun | any task
task_success | any task
task_failure | any task
task_retry | any task
task_revoked | any task
EOF
