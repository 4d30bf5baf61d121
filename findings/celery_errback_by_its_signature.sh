#!/usr/bin/env bash
# Celery: a bound errback gets the id alone, one of two arguments is not called, and one that cannot be sent overwrites the error
#
# Guess: each `link_error` is called with the request, the exception and the traceback, `self` before them with `bind=True`; one
# that does not take them fails for itself, and the task's own failure stays what it was.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): the three come only to a plain task that takes several. A bound one, or
# one of one argument, gets the id as text. One that takes two is not called, without a trace in the result. An immutable
# errback that lacks an argument fails when it is sent, and that TypeError overwrites the ValueError in the stored result.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
calls = []

def note(*arguments):
    calls.append([type(argument).__name__ for argument in arguments])

@app.task
def fail():
    raise ValueError("the task's own")

@app.task
def three(request, exc, traceback):
    note(request, exc, traceback)

@app.task(bind=True)
def bound(self, *arguments):
    note(*arguments)

@app.task
def one(ident):
    note(ident)

@app.task
def two(request, exc):
    note(request, exc)

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for name, errback in (("three.s()", three.s()), ("bound.s()", bound.s()), ("one.s()", one.s()), ("two.s()", two.s()),
                          ("one.si()", one.si())):
        result = fail.apply_async(link_error=errback)
        result.get(timeout=10, propagate=False)
        end = time.monotonic() + 1
        while not calls and time.monotonic() < end:
            time.sleep(0.02)
        print(name, "| called with", calls, "| stored", repr(app.AsyncResult(result.id).result), flush=True)
        calls.clear()
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
three.s() | called with [['Context', 'ValueError', 'str']] | stored ValueError("the task's own")
bound.s() | called with [['str']] | stored ValueError("the task's own")
one.s() | called with [['str']] | stored ValueError("the task's own")
two.s() | called with [] | stored ValueError("the task's own")
one.si() | called with [] | stored TypeError("one() missing 1 required positional argument: 'ident'")
EOF
