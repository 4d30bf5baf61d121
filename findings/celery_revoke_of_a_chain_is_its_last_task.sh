#!/usr/bin/env bash
# Celery: `revoke()` of what a chain or a chord returned stops its last task only; all before it runs
#
# Guess: `result = chain(a, b, c).delay(); result.revoke()` is about the chain, as `revoke()` of a group's result is about the group:
# what has not begun does not run.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): the result of a chain is that of its last task, and the revoke is for that id:
# `a` and `b` run, though neither had begun. Of a chord the whole header runs and its body does not; only a group stops as a
# whole, and its tasks one by one. To stop a chain each of its parents has to be revoked: `result.parent.revoke()` and so on.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, chain, chord, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
ran = []

@app.task
def run(name):
    ran.append(name)

def revoked(result):
    result.revoke()
    return result

def each_revoked(result):
    end = result
    while result is not None:
        result.revoke()
        result = result.parent
    return end

later = run.si("a").set(countdown=1)
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for name, send, revoke in (
        ("chain(a, b, c)", lambda: chain(later, run.si("b"), run.si("c")).delay(), revoked),
        ("chord([a, b], c)", lambda: chord([later, run.si("b").set(countdown=1)], run.si("c")).delay(), revoked),
        ("group(a, b, c)", lambda: group(later, run.si("b").set(countdown=1), run.si("c").set(countdown=1)).delay(), revoked),
        ("chain(a, b, c), each parent too", lambda: chain(later, run.si("b"), run.si("c")).delay(), each_revoked),
    ):
        ran.clear()
        revoke(send())
        time.sleep(4)
        print(name, "| ran:", *sorted(ran), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
chain(a, b, c) | ran: a b
chord([a, b], c) | ran: a b
group(a, b, c) | ran:
chain(a, b, c), each parent too | ran:
EOF
