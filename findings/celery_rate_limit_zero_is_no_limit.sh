#!/usr/bin/env bash
# Celery: a rate limit of "0/s" is no limit at all
#
# Guess: `rate_limit="0/s"` lets no task run, and `control.rate_limit(name, "0/m")` stops a kind of task in an emergency.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): the tasks run unlimited, as with None. The worker answers the remote
# command with "new rate limit set successfully", and where there was a limit there is none afterwards.
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
app.conf.update(worker_hijack_root_logger=False, worker_prefetch_multiplier=0)
ran = []

@app.task(rate_limit="0/s")
def zero(n):
    ran.append(n)

@app.task(rate_limit="1/m")
def one(n):
    ran.append(n)

def sent(task):
    ran.clear()
    for n in range(5):
        task.delay(n)
    time.sleep(3)
    return f"{len(ran)} of 5 ran in three seconds"

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    print("0/s |", sent(zero), flush=True)
    print("1/m |", sent(one), flush=True)
    print("set to 0/m |", app.control.rate_limit(one.name, "0/m", reply=True, timeout=2)[0].popitem()[1], flush=True)
    print("0/m |", sent(one), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
0/s | 5 of 5 ran in three seconds
1/m | 1 of 5 ran in three seconds
set to 0/m | {'ok': 'new rate limit set successfully'}
0/m | 5 of 5 ran in three seconds
EOF
