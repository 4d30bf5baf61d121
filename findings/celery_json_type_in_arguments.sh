#!/usr/bin/env bash
# Celery: an argument that is a dict with the keys `__type__` and `__value__` arrives as something else, or not at all
#
# Guess: the JSON serializer brings a dict of strings as it was sent.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): those two keys are how Kombu writes dates, UUIDs and bytes, and a
# payload that has them itself is read as such: the task gets a `date`. With a type that Kombu does not know the task does
# not run at all.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://")
app.conf.worker_hijack_root_logger = False
got = []

@app.task
def work(argument):
    got.append(argument)

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for sent in (
        {"__type__": "date", "value": "2026-01-01"},
        {"__type__": "date", "__value__": "2026-01-01"},
        {"deep": [{"__type__": "bytes", "__value__": "text"}]},
        {"__type__": "person", "__value__": "Ann"},
    ):
        result = work.delay(sent)
        until = time.time() + 2
        while not got and time.time() < until:
            time.sleep(0.05)
        print(sent, "| got", *map(repr, got) if got else ["nothing"], flush=True)
        got.clear()
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{'__type__': 'date', 'value': '2026-01-01'} | got {'__type__': 'date', 'value': '2026-01-01'}
{'__type__': 'date', '__value__': '2026-01-01'} | got datetime.date(2026, 1, 1)
{'deep': [{'__type__': 'bytes', '__value__': 'text'}]} | got {'deep': [b'text']}
{'__type__': 'person', '__value__': 'Ann'} | got nothing
EOF
