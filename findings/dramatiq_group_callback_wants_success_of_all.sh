#!/usr/bin/env bash
# dramatiq: a group's completion callback never comes if one of its jobs failed, and `completed` raises instead of answering
#
# Guess: "completed" is about the end of the jobs: the callback runs once all have ended, failed or not, and at once for an
# empty group; `group.completed` is True then. A result that cannot be encoded is a failure to the one that asks for it.
#
# Seen: dramatiq 2.2.1 (StubBroker, GroupCallbacks, Results, its Redis backend shares the code): with a job out of retries the
# callback is never sent, and `completed` raises ResultFailure. An empty group with a callback is an AssertionError. A job that
# returned a set has no result at all: `get_result` waits until its timeout.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  dramatiq==2.2.1 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, time
import dramatiq
from dramatiq import group
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend as Barriers
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

logging.disable(logging.CRITICAL)
broker = StubBroker()
broker.add_middleware(Results(backend=StubBackend()))
broker.add_middleware(GroupCallbacks(Barriers()))
dramatiq.set_broker(broker)
called = []

@dramatiq.actor(store_results=True, max_retries=0)
def works(value):
    return {1, 2} if value == "set" else value

@dramatiq.actor(store_results=True, max_retries=0)
def fails():
    raise KeyError("x")

@dramatiq.actor
def callback():
    called.append(1)

def answer(function):
    try:
        return function()
    except Exception as error:
        return type(error).__name__

worker = dramatiq.Worker(broker, worker_timeout=100)
worker.start()
for name, messages in (("two that work", [works.message(1), works.message(2)]), ("one of them fails", [works.message(1), fails.message()]), ("none", [])):
    called.clear()
    jobs = group(messages)
    jobs.add_completion_callback(callback.message())
    started = answer(jobs.run)
    time.sleep(1.5)
    print(name, "|", started if isinstance(started, str) else "started", "| callbacks:", len(called), "| completed:", answer(lambda: jobs.completed))
print("returns a set | get_result:", answer(lambda: works.send("set").get_result(block=True, timeout=2000)))
worker.stop()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
two that work | started | callbacks: 1 | completed: True
one of them fails | started | callbacks: 0 | completed: ResultFailure
none | AssertionError | callbacks: 0 | completed: True
returns a set | get_result: ResultTimeout
EOF
