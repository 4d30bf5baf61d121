#!/usr/bin/env bash
# Celery with msgpack: a task whose argument is {1: "a"} is sent, and no worker can read it; a result of that kind ends as a success that cannot be read
#
# Guess: msgpack has whole numbers as keys, so they arrive as such, where JSON makes text of them; or the sender is
# refused.
#
# Seen: celery 5.7.0, kombu 5.7.0, msgpack 1.2.4: Kombu packs them, and unpacks with msgpack's `strict_map_key`, which
# refuses all keys but text and bytes. The worker drops the message with an error in its log, and the client waits for
# ever. A result of that kind is stored, and what reads it gets DecodeError. So it is with keys of None and True.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 msgpack==1.2.4 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging
from celery import Celery
from celery.contrib.testing.worker import start_worker

app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(task_serializer="msgpack", result_serializer="msgpack", accept_content=["msgpack"], worker_hijack_root_logger=False)
logging.disable(logging.CRITICAL)

@app.task
def same(value):
    print("runs with", value)
    return value

@app.task
def numbers():
    return {1: "a"}

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for value in ({"1": "a"}, {1: "a"}, {None: 1}):
        sent = same.delay(value)
        try:
            print(value, "gives", sent.get(timeout=2))
        except Exception as error:
            print(value, "gives", type(error).__name__, "- state", sent.state)
    sent = numbers.delay()
    try:
        print("a result gives", sent.get(timeout=2))
    except Exception as error:
        print("a result gives", type(error).__name__)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
runs with {'1': 'a'}
{'1': 'a'} gives {'1': 'a'}
{1: 'a'} gives TimeoutError - state PENDING
{None: 1} gives TimeoutError - state PENDING
a result gives DecodeError
EOF
