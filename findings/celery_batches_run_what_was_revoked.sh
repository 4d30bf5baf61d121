#!/usr/bin/env bash
# celery-batches: a task that expired or was revoked while it was gathered runs, and a chain behind a batched task never goes on
#
# Guess: a task that waits in the buffer for its batch is left out of it once it has expired or was revoked, as one that waits
# in the queue; a task in a chain is followed by the next one, and a batch that raises makes its tasks FAILURE.
#
# Seen: celery-batches 0.11, celery 5.6.3 (it refuses 5.7), kombu 5.7.0 (memory transport): both are in the batch, and what was
# revoked says SUCCESS. Batches mark no task by themselves: one whose batch raised stays PENDING, and its message is gone.
# A batch that marks its tasks (`mark_as_done`) makes them SUCCESS, but a chain's next task is never sent, nor is a `link`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.6.3 kombu==5.7.0 celery-batches==0.11 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery_batches import Batches

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
app.conf.worker_prefetch_multiplier = 0
ran = []

@app.task(base=Batches, flush_every=9, flush_interval=1)
def gathered(requests):
    for request in requests:
        ran.append(request.args[0])
        app.backend.mark_as_done(request.id, "done", request=request)

@app.task(base=Batches, flush_every=9, flush_interval=1)
def fails(requests):
    ran.extend(request.args[0] for request in requests)
    raise ValueError

@app.task
def after(result):
    ran.append("next")

def until(what):
    end = time.monotonic() + 10
    while what not in ran and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(1)

with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, loglevel="CRITICAL"):
    for name, send in (
        ("expires=0.1", lambda: gathered.apply_async((1,), expires=0.1)),
        ("revoked", lambda: gathered.delay(1)),
        ("in a chain", lambda: (gathered.s(1) | after.s()).delay().parent),
        ("with a link", lambda: gathered.apply_async((1,), link=after.s())),
        ("raises", lambda: fails.delay(1)),
    ):
        ran.clear()
        result = send()
        time.sleep(0.3)
        if name == "revoked":
            app.control.revoke(result.id)
        early = list(ran)
        until(1)
        print(name, "| after 0.3 s", early, "| in the end", ran, app.AsyncResult(result.id).state, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
expires=0.1 | after 0.3 s [] | in the end [1] SUCCESS
revoked | after 0.3 s [] | in the end [1] SUCCESS
in a chain | after 0.3 s [] | in the end [1] SUCCESS
with a link | after 0.3 s [] | in the end [1] SUCCESS
raises | after 0.3 s [] | in the end [1] PENDING
EOF
