#!/usr/bin/env bash
# A pipeline: the result of one job is the next one's first argument in Celery and taskiq, its last in dramatiq, and in huey None is left out and a dict taken apart
#
# Guess: the next job gets the result as one argument, before its own, whatever it is.
#
# Seen: celery 5.7.0 and taskiq-pipelines 0.1.4 (taskiq 0.13.0): so. dramatiq 2.2.1 puts it behind the arguments of the next
# job's message. huey 3.5.4 does so too, but a tuple becomes several arguments, a dict keyword arguments (and a name that the
# next job has of its own keeps its own value), and None or () no argument at all. So a step that sometimes finds nothing makes
# the next one fail for a missing argument, or run with its default.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 huey==3.5.4 dramatiq==2.2.1 taskiq==0.13.0 taskiq-pipelines==0.1.4 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os
import celery, dramatiq, huey, taskiq, taskiq_pipelines
from dramatiq.brokers.stub import StubBroker

logging.disable(logging.CRITICAL)
got = []

def first(value):
    return value

def second(*arguments, **keywords):
    got.append((arguments, keywords))

app = celery.Celery("app", set_as_current=True)
app.conf.task_always_eager = True
of_celery = app.task(name="first")(first), app.task(name="second")(second)

def by_celery(value):
    (of_celery[0].s(value) | of_celery[1].s("own", c="own")).delay()

memory = huey.MemoryHuey(immediate=True)
of_huey = memory.task()(first), memory.task()(second)

def by_huey(value):
    memory.enqueue(of_huey[0].s(value).then(of_huey[1], "own", c="own"))

broker = StubBroker()
dramatiq.set_broker(broker)
of_dramatiq = dramatiq.actor(broker=broker)(first), dramatiq.actor(broker=broker)(second)
worker = dramatiq.Worker(broker, worker_timeout=50)
worker.start()

def by_dramatiq(value):
    dramatiq.pipeline([of_dramatiq[0].message(value), of_dramatiq[1].message("own", c="own")]).run()
    while not got:
        broker.join("default")

def by_taskiq(value):
    async def run():
        broker = taskiq.InMemoryBroker().with_middlewares(taskiq_pipelines.PipelineMiddleware())
        of_taskiq = broker.task(task_name="first")(first), broker.task(task_name="second")(second)
        sent = await taskiq_pipelines.Pipeline(broker, of_taskiq[0]).call_next(of_taskiq[1], c="own").kiq(value)
        await sent.wait_result(timeout=20)
    asyncio.run(run())

for run in (by_celery, by_taskiq, by_dramatiq, by_huey):
    for value in (1, None, [1, 2], {"c": 1, "d": 2}):
        got.clear()
        run(value)
        print(run.__name__[3:], value, "|", *got[0], flush=True)
    if run is by_huey:
        got.clear()
        run((1, 2))
        print("huey (1, 2) |", *got[0], flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery 1 | (1, 'own') {'c': 'own'}
celery None | (None, 'own') {'c': 'own'}
celery [1, 2] | ([1, 2], 'own') {'c': 'own'}
celery {'c': 1, 'd': 2} | ({'c': 1, 'd': 2}, 'own') {'c': 'own'}
taskiq 1 | (1,) {'c': 'own'}
taskiq None | (None,) {'c': 'own'}
taskiq [1, 2] | ([1, 2],) {'c': 'own'}
taskiq {'c': 1, 'd': 2} | ({'c': 1, 'd': 2},) {'c': 'own'}
dramatiq 1 | ('own', 1) {'c': 'own'}
dramatiq None | ('own', None) {'c': 'own'}
dramatiq [1, 2] | ('own', [1, 2]) {'c': 'own'}
dramatiq {'c': 1, 'd': 2} | ('own', {'c': 1, 'd': 2}) {'c': 'own'}
huey 1 | ('own', 1) {'c': 'own'}
huey None | ('own',) {'c': 'own'}
huey [1, 2] | ('own', [1, 2]) {'c': 'own'}
huey {'c': 1, 'd': 2} | ('own',) {'c': 'own', 'd': 2}
huey (1, 2) | ('own', 1, 2) {'c': 'own'}
EOF
