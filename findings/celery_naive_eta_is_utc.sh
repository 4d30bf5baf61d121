#!/usr/bin/env bash
# Celery reads an eta without a timezone as UTC, whatever `timezone` says
#
# Guess: with `timezone = "America/New_York"` an `eta=datetime.now() + 3 s` on a machine in New York is due in three seconds.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): it is taken for UTC, which is hours ahead there, so the task runs at
# once; in Kolkata, where UTC is behind, it has not run after 7 s and would in 5.5 hours. `enable_utc=False` changes nothing
# about that. An aware eta is exact everywhere.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, subprocess, sys

CODE = """
import os, sys, time
from datetime import datetime, timedelta, timezone
from celery import Celery
from celery.contrib.testing.worker import start_worker

zone, enable_utc, aware = os.environ["TZ"], sys.argv[1] == "True", sys.argv[2] == "aware"
app = Celery(broker="memory://", set_as_current=False)
app.conf.update(timezone=zone, enable_utc=enable_utc, worker_hijack_root_logger=False)
ran = []

@app.task
def work():
    ran.append(time.time())

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    now = time.time()
    due = datetime.now(timezone.utc) if aware else datetime.now()
    work.apply_async(eta=due + timedelta(seconds=3))
    while not ran and time.time() < now + 7:
        time.sleep(0.05)
late = ran and ran[0] - now
print("never" if not ran else "at once" if late < 2 else "after three seconds", flush=True)
os._exit(0)
"""
for zone in ("America/New_York", "Asia/Kolkata"):
    for enable_utc in (True, False):
        said = [
            subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, str(enable_utc), kind], env={**os.environ, "TZ": zone},
                           capture_output=True, text=True).stdout.strip()
            for kind in ("naive", "aware")
        ]
        print(zone, f"enable_utc={enable_utc} | naive: {said[0]} | aware: {said[1]}", flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
America/New_York enable_utc=True | naive: at once | aware: after three seconds
America/New_York enable_utc=False | naive: at once | aware: after three seconds
Asia/Kolkata enable_utc=True | naive: never | aware: after three seconds
Asia/Kolkata enable_utc=False | naive: never | aware: after three seconds
EOF
