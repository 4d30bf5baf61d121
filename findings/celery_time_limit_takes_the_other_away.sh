#!/usr/bin/env bash
# Celery: `control.time_limit(task, soft=60)` takes the task's hard limit away
#
# Guess: it sets the one that is given and leaves the other; a soft limit above the hard one is refused, as it never comes.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): what is not given is set to None, so a task with limits of 5 and 10 s has none
# but the new one, and with `hard=` alone it loses the soft one, at which it would have cleaned up. A soft limit of 90 with a hard
# one of 30 is taken. Each time the worker answers "time limits set successfully". `None` is no way back to what the task had.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.update(worker_hijack_root_logger=False)

@app.task(soft_time_limit=5, time_limit=10)
def task():
    pass

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for limits in ({"soft": 7}, {"hard": 20}, {"soft": 90, "hard": 30}, {}):
        task.soft_time_limit, task.time_limit = 5, 10
        answer = app.control.time_limit(task.name, **limits, reply=True, timeout=3, limit=1)[0].popitem()[1]
        print("5 and 10 |", limits, "|", answer["ok"], "| now", task.soft_time_limit, "and", task.time_limit, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
5 and 10 | {'soft': 7} | time limits set successfully | now 7 and None
5 and 10 | {'hard': 20} | time limits set successfully | now None and 20
5 and 10 | {'soft': 90, 'hard': 30} | time limits set successfully | now 90 and 30
5 and 10 | {} | time limits set successfully | now None and None
EOF
