#!/usr/bin/env bash
# Celery with task_always_eager: a task that fails is a FAILURE, the same task in a chain raises at its caller
#
# Guess: without `task_eager_propagates` what fails is stored as by a worker: `delay()` returns, the result says FAILURE, alone,
# in a chain or in a chord; a callback that cannot be sent is no matter of its caller.
#
# Seen: celery 5.7.0: an error of any task of a chain but its last, or in a chord's header, comes out of `delay()`, though
# `task_eager_propagates` is False, and so does a `link` that does not take the result. The chord's errback is not called. Of a
# group and of a chain's last task the caller gets a result that says FAILURE. So a view that starts a chain answers 500 in the
# test, where with a worker it would have answered 200.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging
from celery import Celery, chord, group

logging.disable(logging.CRITICAL)
app = Celery("app", set_as_current=True)
app.conf.task_always_eager = True
told = []

@app.task
def works(*arguments):
    return 1

@app.task
def takes_nothing():
    return 1

@app.task
def fails(*arguments):
    raise ValueError("no")

@app.task
def errback(request, error, traceback):
    told.append(str(error))

print("task_eager_propagates:", app.conf.task_eager_propagates)
for what, signature in (
    ("fails", fails.s()),
    ("works | fails", works.s() | fails.s()),
    ("fails | works", fails.s() | works.s()),
    ("group(fails, works)", group(fails.s(), works.s())),
    ("chord([works], fails)", chord([works.s()], fails.s())),
    ("chord([fails], works)", chord([fails.s()], works.s())),
    ("works, link=takes_nothing", works.s().set(link=takes_nothing.s())),
):
    told.clear()
    try:
        result = signature.on_error(errback.s()).delay() if "link" not in what else signature.delay()
        answer = [one.state for one in result.results] if hasattr(result, "results") else result.state
    except Exception as error:
        answer = f"{type(error).__name__} out of delay()"
    print(what, "|", answer, "| errbacks:", len(told))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
task_eager_propagates: False
fails | FAILURE | errbacks: 1
works | fails | FAILURE | errbacks: 1
fails | works | ValueError out of delay() | errbacks: 1
group(fails, works) | ['FAILURE', 'SUCCESS'] | errbacks: 1
chord([works], fails) | FAILURE | errbacks: 1
chord([fails], works) | ValueError out of delay() | errbacks: 0
works, link=takes_nothing | TypeError out of delay() | errbacks: 0
EOF
