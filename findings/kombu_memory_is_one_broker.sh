#!/usr/bin/env bash
# Kombu's memory transport: all memory:// URLs of a process are one broker, so one test's worker runs what another test left
#
# Guess: `memory://one` and `memory://two`, or two Celery apps with `broker="memory://"`, know nothing of each other, as two hosts do
# not; once a connection is closed its messages are gone.
#
# Seen: kombu 5.7.0, celery 5.7.0: host and virtual host of the URL are not read, and queues belong to the process. What one app
# sends another takes; a task of an app that is gone, closed and collected, is run by the next app that has a task of that name;
# its result is found by either app's `cache+memory://` backend.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import gc, logging, os, queue
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu import Connection

logging.disable(logging.CRITICAL)
with Connection("memory://one/first") as sender, Connection("memory://two/second") as taker:
    sender.SimpleQueue("q").put("a message")
    print("memory://two/second has:", taker.SimpleQueue("q").get(timeout=1).payload)
with Connection("memory://one") as sender:
    sender.SimpleQueue("q").put("left behind")
with Connection("memory://three") as taker:
    print("after a close:", taker.SimpleQueue("q").get(timeout=1).payload)

def app_of(test):
    app = Celery(test, broker=f"memory://{test}", backend="cache+memory://", set_as_current=False)
    app.conf.worker_hijack_root_logger = False

    @app.task(name="charge", shared=False)
    def charge():
        return f"run by the app of {test}"

    return app

first = app_of("test_first")
task_id = first.tasks["charge"].delay().id
first.close()
del first
gc.collect()
second = app_of("test_second")
with start_worker(second, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    print("sent by the app of test_first:", second.AsyncResult(task_id).get(timeout=10), flush=True)
third = app_of("test_third")
print("its result, asked by the app of test_third:", third.AsyncResult(task_id).state, flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory://two/second has: a message
after a close: left behind
sent by the app of test_first: run by the app of test_second
its result, asked by the app of test_third: SUCCESS
EOF
