#!/usr/bin/env bash
# APScheduler: a job that each start adds with `replace_existing=True` counts its interval from that start, and is no longer paused
#
# Guess: a job store keeps when a job is due next, and `replace_existing=True` with an id, which the manual asks for where jobs
# are added at each start, updates what the code says of it: a daily job goes on with its day, a paused one stays paused.
#
# Seen: APScheduler 3.11.3 (SQLAlchemy 2.0.51, SQLite; all stores share the code): the stored job is replaced as a whole. With
# `interval, hours=24` and a start every 23 hours, as with daily deployments, it never runs. One that was due while the process
# was down has no run for that. One that somebody paused runs again. Without replace_existing the second one is a
# ConflictingIdError; where the code adds the job once, the store keeps its day.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  apscheduler==3.11.3 sqlalchemy==2.0.51 2>/dev/null
cat > "$dir/jobs.py" <<'EOF'
ran = []

def report():
    ran.append("report")
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import datetime, logging, os, time
import jobs
import apscheduler.schedulers.base as base
from apscheduler.jobstores.base import ConflictingIdError
from apscheduler.schedulers.background import BackgroundScheduler

logging.disable(logging.CRITICAL)
HOUR = datetime.timedelta(hours=1)
now = began = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.timezone.utc)

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return now

# what APScheduler takes for the time: its own modules' datetime
import apscheduler.triggers.interval, apscheduler.triggers.cron
base.datetime = apscheduler.triggers.interval.datetime = Clock

def start(replace):
    scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"misfire_grace_time": None})
    scheduler.add_jobstore("sqlalchemy", url=f"sqlite:///{os.environ['DIR']}/jobs.db")
    if replace:
        scheduler.add_job("jobs:report", "interval", hours=24, id="daily", replace_existing=True)
    scheduler.start()
    time.sleep(0.3)
    return scheduler

def hours(job):
    return (job.next_run_time - began) / HOUR if job.next_run_time else None

for replace in (True, False):
    jobs.ran.clear()
    now = began
    start(True).shutdown()
    due = []
    for _ in range(3):
        now += 23 * HOUR
        scheduler = start(replace)
        due.append(hours(scheduler.get_job("daily")))
        scheduler.shutdown()
    print(f"added at each start: {replace}; due at hours {due}, ran {len(jobs.ran)} in 69 hours")

scheduler = start(True)
scheduler.pause_job("daily")
print("paused:", hours(scheduler.get_job("daily")) is None)
scheduler.shutdown()
scheduler = start(True)
print("paused after the next start:", hours(scheduler.get_job("daily")) is None)
try:
    scheduler.add_job("jobs:report", "interval", hours=24, id="daily")
except ConflictingIdError:
    print("without replace_existing: ConflictingIdError")
scheduler.shutdown()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
added at each start: True; due at hours [47.0, 70.0, 93.0], ran 0 in 69 hours
added at each start: False; due at hours [24.0, 48.0, 72.0], ran 2 in 69 hours
paused: True
paused after the next start: False
without replace_existing: ConflictingIdError
EOF
