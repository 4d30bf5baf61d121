#!/usr/bin/env bash
# taskiq: `max_retries=3` is three runs, where Celery, dramatiq and huey make four
#
# Guess: retries come after the first run, so three retries are four runs; the label 1 is one retry.
#
# Seen: taskiq 0.13.0 (SimpleRetryMiddleware, as its smart one): the first run is counted among the retries, so 3 is three
# runs, and both 1 and 0 mean that nothing is tried again. celery 5.7.0 (max_retries), dramatiq 2.2.1 (max_retries) and huey
# 3.5.4 (retries) run it four times with 3 and twice with 1.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 dramatiq==2.2.1 huey==3.5.4 taskiq==0.13.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging
import celery, dramatiq, huey, taskiq
from dramatiq.brokers.stub import StubBroker

logging.disable(logging.CRITICAL)
runs = []

def fails():
    runs.append(1)
    raise ValueError

async def fails_async():
    fails()

def with_celery(retries):
    app = celery.Celery("app")
    app.conf.task_always_eager = True
    app.task(autoretry_for=(ValueError,), max_retries=retries, retry_backoff=0, default_retry_delay=0)(fails).delay()

def with_dramatiq(retries):
    broker = StubBroker()
    actor = dramatiq.actor(fails, broker=broker, max_retries=retries, min_backoff=1, max_backoff=2)
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    worker.start()
    actor.send()
    broker.join(actor.queue_name, timeout=20_000)
    worker.join()
    worker.stop()

def with_huey(retries):
    queue = huey.MemoryHuey()
    queue.task(retries=retries)(fails)()
    while task := queue.dequeue():
        try:
            queue.execute(task)
        except ValueError:
            pass

def with_taskiq(retries):
    async def run():
        broker = taskiq.InMemoryBroker().with_middlewares(taskiq.SimpleRetryMiddleware())
        task = broker.task(task_name="fails", retry_on_error=True, max_retries=retries)(fails_async)
        await broker.startup()
        await task.kiq()
        for _ in range(20):
            await broker.wait_all()
            await asyncio.sleep(0.02)
        await broker.shutdown()
    asyncio.run(run())

for run in (with_celery, with_dramatiq, with_huey, with_taskiq):
    seen = []
    for retries in (3, 1, 0):
        runs.clear()
        try:
            run(retries)
        except ValueError:
            pass
        seen.append(f"{retries} retries: {len(runs)} runs")
    print(run.__name__[5:], *seen, sep=" | ")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery | 3 retries: 4 runs | 1 retries: 2 runs | 0 retries: 1 runs
dramatiq | 3 retries: 4 runs | 1 retries: 2 runs | 0 retries: 1 runs
huey | 3 retries: 4 runs | 1 retries: 2 runs | 0 retries: 1 runs
taskiq | 3 retries: 3 runs | 1 retries: 1 runs | 0 retries: 1 runs
EOF
