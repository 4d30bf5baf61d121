#!/usr/bin/env bash
# Celery: a chain that failed says so at its end, unless its end is a group or a task expired: then it is PENDING for ever
#
# Guess: where a task of a chain does not succeed, what stands behind it never runs and has its error: what waits for the end
# of the chain learns of it, whatever stands there and whether the task raised, expired or was revoked.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): what raised makes the tasks behind it FAILURE, and the body of a chord. The
# tasks of a group at the end stay PENDING: `get()` of it waits until its timeout. Behind a task that expired, or was revoked, all
# stays PENDING. The AsyncResult that `delay()` returned asks its parents, and raises; one made of the id, as in the next request of a
# web page, waits.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False

@app.task
def ok(*results):
    return 1

@app.task
def fails():
    raise ValueError

def ending(result):
    try:
        result.get(timeout=2)
    except Exception as error:
        return type(error).__name__

def end_of(result):
    return [each.state for each in result.results] if hasattr(result, "results") else result.state

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for first, signature in (("raises", fails.s()), ("expired", ok.s().set(expires=-1))):
        for end, rest in (
            ("a task", ok.s()),
            ("a chord", group(ok.s(), ok.s()) | ok.s()),
            ("a group", group(ok.s(), ok.s())),
        ):
            result = (signature | rest).delay()
            known = ending(result)
            ids = getattr(result, "results", None) or [result]
            print(f"{first}, then {end} | {end_of(result)} | get(): {known} | by id: {ending(app.AsyncResult(ids[-1].id))}", flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
raises, then a task | FAILURE | get(): ValueError | by id: ValueError
raises, then a chord | FAILURE | get(): ValueError | by id: ValueError
raises, then a group | ['PENDING', 'PENDING'] | get(): TimeoutError | by id: TimeoutError
expired, then a task | PENDING | get(): TaskRevokedError | by id: TimeoutError
expired, then a chord | PENDING | get(): TaskRevokedError | by id: TimeoutError
expired, then a group | ['PENDING', 'PENDING'] | get(): TimeoutError | by id: TimeoutError
EOF
