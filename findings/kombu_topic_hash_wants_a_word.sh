#!/usr/bin/env bash
# Kombu's topic exchange: `#` does not match zero words
#
# Guess: a binding `a.#` also gets what is published with `a`, as topic exchanges do elsewhere (AMQP 0-9-1, 3.1.3.3: "#
# matches zero or more words").
#
# Seen: kombu 5.7.0, virtual transports (memory here; Redis, SQS and the others share the code): `a.#` does not get `a`,
# `#.c` does not get `c`, and `a.#.c` does not get `a.c`. The messages are dropped without an error, so an app that moves
# here from an AMQP broker loses them.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
from kombu import Connection, Exchange, Queue

for key in ("a.#", "#.c", "a.#.c", "a.*", "#"):
    with Connection("memory://") as connection:
        exchange = Exchange("topics", "topic")
        queue = Queue(key, exchange, routing_key=key)(connection.default_channel)
        queue.declare()
        for name in ("a", "c", "a.c", "a.b.c"):
            connection.Producer().publish(name, exchange=exchange, routing_key=name)
        got = []
        while message := queue.get(no_ack=True):
            got.append(message.payload)
        queue.delete()
        print(key, "gets", *got)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
a.# gets a.c a.b.c
#.c gets a.c a.b.c
a.#.c gets a.b.c
a.* gets a.c
# gets a c a.c a.b.c
EOF
