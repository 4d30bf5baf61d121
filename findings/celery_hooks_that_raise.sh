#!/usr/bin/env bash
# Celery: an `on_retry` that raises calls the errbacks while the task is tried again, an `on_failure` that raises calls them twice
#
# Guess: on_success, on_failure, on_retry and after_return are told what has happened; one that raises is a line in the log and
# changes nothing.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): so it is for on_success and after_return, and a before_start that raises
# is the task's failure. Where on_retry raises, the retry has been sent already: the result says FAILURE, with the hook's error,
# link_error is called at each such retry, and then the task succeeds and its link is called too. Where on_failure raises, its
# error takes the place of the task's in the result, and link_error is called twice.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, Task
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
told = []

@app.task
def link(value):
    told.append("link")

@app.task
def errback(request, error, traceback):
    told.append(f"errback {error!r}")

def hooked(hook):
    def raises(self, *arguments):
        raise KeyError(hook)
    return type("Hooked", (Task,), {"abstract": True, hook: raises})

def run(task):
    told.append("run")
    if task.fails and task.request.retries < task.fails:
        raise ValueError("the task's own")
    return "done"

cases = []
for hook, fails, count in (("on_success", 0, 2), ("after_return", 0, 2), ("before_start", 0, 1), ("on_failure", 1, 3), ("on_retry", 2, 6)):
    options = {"autoretry_for": (ValueError,), "max_retries": 2, "default_retry_delay": 1} if hook == "on_retry" else {}
    task = app.task(name=hook, bind=True, base=hooked(hook), **options)(run)
    task.fails = fails
    cases.append((task, count))

with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
    for task, count in cases:
        told.clear()
        result = task.apply_async(link=link.s(), link_error=errback.s())
        between, end = set(), time.monotonic() + 20
        while len(told) < count and time.monotonic() < end:
            between.add(app.AsyncResult(result.id).state)
            time.sleep(0.02)
        time.sleep(0.3)  # for one too many
        final = app.AsyncResult(result.id)
        meanwhile = " after FAILURE" if task.name == "on_retry" and "FAILURE" in between else ""
        print(task.name, "|", ", ".join(told), "|", f"{final.state}{meanwhile} {final.result!r}", flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
on_success | run, link | SUCCESS 'done'
after_return | run, link | SUCCESS 'done'
before_start | errback KeyError('before_start') | FAILURE KeyError('before_start')
on_failure | run, errback ValueError("the task's own"), errback KeyError('on_failure') | FAILURE KeyError('on_failure')
on_retry | run, errback KeyError('on_retry'), run, errback KeyError('on_retry'), run, link | SUCCESS after FAILURE 'done'
EOF
