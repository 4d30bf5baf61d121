#!/usr/bin/env bash
# APScheduler: a job of 01:30 each night runs twice in the night when the clocks go back
#
# Guess: a job with an hour of its own runs once a night, as cron has it; only what comes each hour comes in the repeated one too.
#
# Seen: in New York, 2026, APScheduler 3.11.3 runs it at 01:30 summer time and an hour later again, at 01:30 winter time. celery
# 5.7.0, arq 0.28.0 and croniter 2.0.7 (which RQ asks) run it once. When the clocks go forward and there is no 02:30, all
# four run the job of 02:30 at 03:30.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 apscheduler==3.11.3 arq==0.28.0 croniter==2.0.7 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import datetime
from zoneinfo import ZoneInfo
import celery, croniter
from apscheduler.triggers.cron import CronTrigger
from arq.cron import next_cron
from celery.schedules import crontab

UTC, ZONE = datetime.timezone.utc, ZoneInfo("America/New_York")
SECOND, MINUTE = datetime.timedelta(seconds=1), datetime.timedelta(minutes=1)

def by_apscheduler(hour, start, end):
    trigger, last, now = CronTrigger(hour=hour, minute=30, timezone=ZONE), None, start
    while (last := trigger.get_next_fire_time(last, now.astimezone(ZONE))) and last.astimezone(UTC) < end:
        yield last
        now = last.astimezone(UTC) + SECOND

def by_croniter(hour, start, end):
    times = croniter.croniter(f"30 {hour} * * *", start.astimezone(ZONE))
    while (due := times.get_next(datetime.datetime)).astimezone(UTC) < end:
        yield due

def by_arq(hour, start, end):
    now = start
    while (due := next_cron(now.astimezone(ZONE), hour=hour, minute=30)).astimezone(UTC) < end:
        yield due
        now = due.astimezone(UTC) + SECOND

def by_celery(hour, start, end):
    app = celery.Celery("app")
    app.conf.update(timezone="America/New_York")
    now = start
    schedule = crontab(hour=hour, minute=30, app=app, nowfun=lambda: now.astimezone(ZONE))
    last = start
    while now < end:
        if schedule.is_due(last.astimezone(ZONE)).is_due:
            yield now
            last = now
        now += MINUTE

for night, hour, start in (("back", 1, datetime.datetime(2026, 10, 31, 16, tzinfo=UTC)), ("forward", 2, datetime.datetime(2026, 3, 7, 17, tzinfo=UTC))):
    for by in (by_celery, by_apscheduler, by_arq, by_croniter):
        times = [f"{due.astimezone(UTC).astimezone(ZONE):%H:%M %Z}" for due in by(hour, start, start + datetime.timedelta(days=1))]
        print(f"{night} | 0{hour}:30 | {by.__name__[3:]} |", ", ".join(times) or "not at all", flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
back | 01:30 | celery | 01:30 EDT
back | 01:30 | apscheduler | 01:30 EDT, 01:30 EST
back | 01:30 | arq | 01:30 EDT
back | 01:30 | croniter | 01:30 EDT
forward | 02:30 | celery | 03:30 EDT
forward | 02:30 | apscheduler | 03:30 EDT
forward | 02:30 | arq | 03:30 EDT
forward | 02:30 | croniter | 03:30 EDT
EOF
