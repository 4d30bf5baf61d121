#!/usr/bin/env bash
# Celery's beat: a chain as a periodic task is sent each time and never runs, a group is not sent; a chord, chunks and a map run
#
# Guess: `add_periodic_task` takes a signature, so it takes any: what `delay()` sends, beat sends; else it refuses it at once.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): all are taken. Beat sends the type of the canvas as if it were a task. For
# a chain that is a message `celery.chain`; the worker that gets it fails with "chain is not a real task", and none of its tasks
# runs. A group raises where beat sends it. A chord, a group behind which something stands, chunks, a map and a starmap run. So
# a chain wants a task around it that calls its `delay()`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, chord, group
from celery.beat import Scheduler, SchedulingError
from celery.contrib.testing.worker import start_worker
from celery.signals import task_failure

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
ran = []

@app.task(name="a")
def a(x):
    ran.append(f"a({x})")
    return x

@app.task(name="b")
def b(x):
    ran.append(f"b({x})")
    return x

@task_failure.connect(weak=False)
def failed(sender, exception, **others):
    ran.append(f"{sender.name} failed: {exception}")

def awaited(count):
    end = time.monotonic() + 20
    while len(ran) < count and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)  # for one too many

with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
    for what, signature, count in (
        ("task", a.s(1), 1),
        ("chain", a.s(1) | b.s(), 1),
        ("group", group(a.s(1), b.s(2)), 0),
        ("chord", chord([a.s(1), a.s(2)], b.s()), 3),
        ("group | task", group(a.s(1), a.s(2)) | b.s(), 3),
        ("chunks", a.chunks([(1,), (2,)], 1), 2),
        ("map", a.map([1, 2]), 2),
        ("starmap", a.starmap([(1,), (2,)]), 2),
    ):
        app.conf.beat_schedule = {}
        app.add_periodic_task(60, signature, name="periodic")
        beat = Scheduler(app=app)
        entry = beat.schedule["periodic"]
        ran.clear()
        try:
            beat.apply_async(entry, advance=False)
            awaited(count)
        except SchedulingError as error:
            ran.append(f"not sent: {str(error).split(': ')[1]}")
        print(what, "|", ", ".join(sorted(ran)), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
task | a(1)
chain | celery.chain failed: chain is not a real task
group | not sent: group() missing 3 required positional arguments
chord | a(1), a(2), b([1, 2])
group | task | a(1), a(2), b([1, 2])
chunks | a(1), a(2)
map | a(1), a(2)
starmap | a(1), a(2)
EOF
