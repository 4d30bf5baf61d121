#!/usr/bin/env bash
# Celery: tasks that wait for their rate limit take the worker's whole prefetch: others do not run, and inspect() shows an idle worker
#
# Guess: a task over its `rate_limit` waits aside, and the worker goes on with the others of its queue; `inspect().reserved()`
# or `.scheduled()` shows what waits.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): what waits for its turn counts towards the prefetch limit, concurrency
# times `worker_prefetch_multiplier`. With as many of them as that limit, here 8 of a task that may run once an hour, a task
# without a limit that is sent after them does not run, though both threads are idle; with one less it runs at once. reserved(),
# active() and scheduled() are all empty meanwhile. A queue and a worker of their own for limited tasks keep the others free.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, threading
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import task_received

logging.disable(logging.CRITICAL)

def trial(number):
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
    app.conf.task_default_queue = f"queue-{number}"
    ran, received, free = [], [], threading.Event()

    @app.task(name="limited", rate_limit="1/h", shared=False)
    def limited(): ran.append("limited")

    @app.task(name="unlimited", shared=False)
    def unlimited(): free.set()

    def on_received(**arguments): received.append(1)
    task_received.connect(on_received)
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=60):
        for _ in range(number + 1):  # the first one runs at once
            limited.delay()
        while len(received) < number + 1:
            free.wait(0.05)
        unlimited.delay()
        is_free = free.wait(3)
        inspect = app.control.inspect(timeout=1)
        counts = {what: sum(map(len, (getattr(inspect, what)() or {}).values())) for what in ("reserved", "active", "scheduled")}
        print(f"{number} wait: limited ran {len(ran)}, unlimited ran: {is_free}, inspect: {counts}", flush=True)
        if number == 8:
            os._exit(0)

trial(7)
trial(8)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
7 wait: limited ran 1, unlimited ran: True, inspect: {'reserved': 0, 'active': 0, 'scheduled': 0}
8 wait: limited ran 1, unlimited ran: False, inspect: {'reserved': 0, 'active': 0, 'scheduled': 0}
EOF
