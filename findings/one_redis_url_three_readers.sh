#!/usr/bin/env bash
# One redis:// URL, three readers: database 0 in silence, an error, or another database
#
# Guess: redis-py, Kombu (broker) and Celery (result backend) read the same URL alike, so one setting serves both.
#
# Seen: redis-py 8.1.0, kombu 5.7.0, celery 5.7.0. `/prod`: redis-py uses database 0 and says nothing, both others raise.
# `/1/`: redis-py and the backend use 1, Kombu raises. `?db=2`: redis-py and the backend use 2, Kombu hands redis-py an
# argument that it does not know. So a broker URL that Celery refuses is fine as its result backend, and a typo in the
# path moves a redis-py program into database 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import redis
from celery import Celery
from kombu import Connection

def said(read):
    try:
        return read()
    except Exception as error:
        return type(error).__name__

def kombu(url):
    transport = Connection(url).transport
    try:
        transport.create_channel(transport)
    except transport.connection_errors:
        return "taken"  # it wanted to connect, and nobody listens on that port

for end in ("/1", "/prod", "/1/", "/1?db=2"):
    url = "redis://127.0.0.1:1" + end
    print(end, "| redis-py:", said(lambda: redis.Redis.from_url(url).connection_pool.connection_kwargs.get("db", 0)),
          "| kombu:", said(lambda: kombu(url)),
          "| celery backend:", said(lambda: Celery(backend=url, set_as_current=False).backend.connparams["db"]))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
/1 | redis-py: 1 | kombu: taken | celery backend: 1
/prod | redis-py: 0 | kombu: ValueError | celery backend: ValueError
/1/ | redis-py: 1 | kombu: ValueError | celery backend: 1
/1?db=2 | redis-py: 2 | kombu: TypeError | celery backend: 2
EOF
