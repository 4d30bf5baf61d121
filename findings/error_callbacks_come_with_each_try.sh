#!/usr/bin/env bash
# The callback for errors: huey's and dramatiq's come with each try, a job that succeeds in the end too; Celery's comes once, at the end
#
# Guess: what is given for the case of failure (`on_failure`, `.error()`, `link_error`) is called when the job has failed, which is
# after its last try.
#
# Seen: huey 3.5.4 and dramatiq 2.2.1 call it at each try that failed, also where the next one succeeds, so a mail "your order
# failed" goes out beside the order. dramatiq has `on_retry_exhausted` for the end; huey's task sees no number of the try. celery 5.7.0
# (kombu 5.7.0, memory transport) calls link_error once, and not at all where a retry succeeds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 huey==3.5.4 dramatiq==2.2.1 2>/dev/null
cat >"$dir/huey_job.py" <<'EOF'
import logging, time
from huey import MemoryHuey

logging.disable(logging.CRITICAL)
huey = MemoryHuey()
tries, errors = [], []

@huey.task()
def on_error(error):
    errors.append(error)

@huey.task(retries=2)
def job(fails):
    tries.append(1)
    if len(tries) <= fails:
        raise ValueError

consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.05)
consumer._set_signal_handlers = lambda: None
consumer.start()
for fails in (9, 1):
    tries.clear(), errors.clear()
    huey.enqueue(job.s(fails).error(on_error))
    time.sleep(2)
    print("huey |", len(tries), "tries |", "failed" if fails == 9 else "succeeded", "|", len(errors), "calls for an error", flush=True)
EOF
cat >"$dir/dramatiq_job.py" <<'EOF'
import logging, time
import dramatiq
from dramatiq.brokers.stub import StubBroker

logging.disable(logging.CRITICAL)
broker = StubBroker()
dramatiq.set_broker(broker)
tries, errors = [], []

@dramatiq.actor
def on_error(message, error):
    errors.append(error)

@dramatiq.actor(max_retries=2, min_backoff=50, max_backoff=50)
def job(fails):
    tries.append(1)
    if len(tries) <= fails:
        raise ValueError

dramatiq.Worker(broker, worker_timeout=100, worker_threads=1).start()
for fails in (9, 1):
    tries.clear(), errors.clear()
    job.send_with_options(args=(fails,), on_failure=on_error)
    time.sleep(2)
    print("dramatiq |", len(tries), "tries |", "failed" if fails == 9 else "succeeded", "|", len(errors), "calls for an error", flush=True)
EOF
cat >"$dir/celery_job.py" <<'EOF'
import logging, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False
tries, errors = [], []

@app.task
def on_error(request, error, traceback):
    errors.append(error)

@app.task(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)
def job(fails):
    tries.append(1)
    if len(tries) <= fails:
        raise ValueError

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for fails in (9, 1):
        tries.clear(), errors.clear()
        job.apply_async((fails,), link_error=on_error.s())
        time.sleep(3)
        print("celery |", len(tries), "tries |", "failed" if fails == 9 else "succeeded", "|", len(errors), "calls for an error", flush=True)
    import os
    os._exit(0)
EOF
seen=$(for name in huey dramatiq celery; do
  PYTHONPATH=$dir/lib timeout 60 python3 -c "import os, runpy; runpy.run_path('$dir/${name}_job.py'); os._exit(0)" 2>/dev/null
done)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
huey | 3 tries | failed | 3 calls for an error
huey | 2 tries | succeeded | 1 calls for an error
dramatiq | 3 tries | failed | 3 calls for an error
dramatiq | 2 tries | succeeded | 1 calls for an error
celery | 3 tries | failed | 1 calls for an error
celery | 2 tries | succeeded | 0 calls for an error
EOF
