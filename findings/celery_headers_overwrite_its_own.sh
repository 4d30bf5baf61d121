#!/usr/bin/env bash
# Celery: a header of the caller that is called as one of Celery's own takes its place: `id`, `task`, `eta`, `retries`
#
# Guess: `apply_async(headers={"id": "customer-7"})` brings `self.request.headers["id"]`; names that Celery needs for itself are
# refused, or kept apart.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): Celery's own data and the caller's are headers of one message, and the
# caller's win. With `id` the task runs under that id, and the caller's result stays PENDING. With `task` another task runs.
# With `eta` it waits, and `retries` uses up the retries. In each case `request.headers` is None, whereas another name arrives.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.update(worker_hijack_root_logger=False)
ran = []

@app.task(bind=True, name="one", max_retries=2)
def one(self):
    request = self.request
    ran.append(f"one ran, headers {request.headers}, retries {request.retries}")
    if request.headers == {"again": 1} or request.retries:
        self.retry(countdown=0)

@app.task(bind=True, name="two")
def two(self):
    ran.append("two ran")

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for headers in ({"tenant": "7"}, {"id": "customer-7"}, {"task": "two"}, {"eta": "2100-01-01T00:00:00+00:00"}, {"retries": 2}):
        ran.clear()
        result = one.apply_async(headers=headers)
        end = time.monotonic() + 6
        while time.monotonic() < end and not (ran and result.ready()):
            time.sleep(0.05)
        own = "" if "id" not in headers else f", of {headers['id']}: {app.AsyncResult(headers['id']).state}"
        print(headers, "|", ran or "nothing ran", "| the caller's result:", result.state + own, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{'tenant': '7'} | ["one ran, headers {'tenant': '7'}, retries 0"] | the caller's result: SUCCESS
{'id': 'customer-7'} | ['one ran, headers None, retries 0'] | the caller's result: PENDING, of customer-7: SUCCESS
{'task': 'two'} | ['two ran'] | the caller's result: SUCCESS
{'eta': '2100-01-01T00:00:00+00:00'} | nothing ran | the caller's result: PENDING
{'retries': 2} | ['one ran, headers None, retries 2'] | the caller's result: FAILURE
EOF
