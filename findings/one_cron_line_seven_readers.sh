#!/usr/bin/env bash
# One line of cron, seven readers: on Fridays and the 13th, on Friday the 13th, or on Saturday the 13th; a 7 may mean never
#
# Guess: `0 0 13 * 5` is what cron makes of it, each Friday and each 13th, in all that take such a line or its five fields; a 5
# is Friday, and both 0 and 7 are Sunday.
#
# Seen: celery 5.7.0, huey 3.5.4 and crontab 1.0.5 (which streaq asks): Friday the 13th only. APScheduler 3.11.3 and arq 0.28.0:
# Saturday the 13th, as their week begins with Monday, 0. pycron 3.3.0 (taskiq) and croniter 2.0.7 (RQ): as cron. A 7 is
# Sunday to three, refused by Celery and APScheduler, and never to pycron, without a word: there `5-7` leaves out the Sunday.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 huey==3.5.4 apscheduler==3.11.3 pycron==3.3.0 croniter==2.0.7 crontab==1.0.5 redis==8.1.0 2>/dev/null
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/lib" \
  arq==0.28.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
from datetime import datetime, timedelta, timezone
import huey, pycron
from apscheduler.triggers.cron import CronTrigger
from arq.cron import next_cron
from celery.schedules import crontab
from croniter import croniter
from crontab import CronTab

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
DAYS = [START + timedelta(days=n) for n in range(365)]

def following(step):
    """The days of 2026 that `step`, from one moment to the next due one, comes by."""
    moment = step(START - SECOND)
    while moment and moment.year == 2026:
        yield moment
        moment = step(moment)

def with_celery(day, weekday):
    cron = crontab(minute=0, hour=0, day_of_month=day, day_of_week=weekday)
    return [d for d in DAYS if d.day in cron.day_of_month and d.isoweekday() % 7 in cron.day_of_week]

def with_huey(day, weekday):
    return filter(huey.crontab(minute="0", hour="0", day=day, day_of_week=weekday), DAYS)

def with_crontab(day, weekday):
    cron = CronTab(f"0 0 {day} * {weekday}")
    return following(lambda d: d + timedelta(seconds=round(cron.next(now=d, default_utc=True))))

def with_apscheduler(day, weekday):
    cron = CronTrigger.from_crontab(f"0 0 {day} * {weekday}", timezone=timezone.utc)
    return following(lambda d: cron.get_next_fire_time(d, d + SECOND))

def with_arq(day, weekday):
    fields = {"day": None if day == "*" else int(day), "weekday": int(weekday)}
    return following(lambda d: next_cron(d, **fields, hour=0, minute=0, microsecond=0))

def with_pycron(day, weekday):
    return [d for d in DAYS if pycron.is_now(f"0 0 {day} * {weekday}", d)]

def with_croniter(day, weekday):
    cron = croniter(f"0 0 {day} * {weekday}", START - SECOND)
    return following(lambda _: cron.get_next(datetime))

READERS = (with_celery, with_huey, with_crontab, with_apscheduler, with_arq, with_pycron, with_croniter)
for day, weekday in (("13", "5"), ("*", "0"), ("*", "7"), ("*", "5-7")):
    for reader in READERS:
        if reader is with_arq and "7" in weekday:
            continue
        try:
            days = list(reader(day, weekday))
            said = f"{len(days)} times in 2026" + (f", first on {days[0]:%a %d %b}" if days else "")
        except ValueError:
            said = "refused"
        print(f"0 0 {day} * {weekday} | {reader.__name__[5:]} | {said}")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
0 0 13 * 5 | celery | 3 times in 2026, first on Fri 13 Feb
0 0 13 * 5 | huey | 3 times in 2026, first on Fri 13 Feb
0 0 13 * 5 | crontab | 3 times in 2026, first on Fri 13 Feb
0 0 13 * 5 | apscheduler | 1 times in 2026, first on Sat 13 Jun
0 0 13 * 5 | arq | 1 times in 2026, first on Sat 13 Jun
0 0 13 * 5 | pycron | 61 times in 2026, first on Fri 02 Jan
0 0 13 * 5 | croniter | 61 times in 2026, first on Fri 02 Jan
0 0 * * 0 | celery | 52 times in 2026, first on Sun 04 Jan
0 0 * * 0 | huey | 52 times in 2026, first on Sun 04 Jan
0 0 * * 0 | crontab | 52 times in 2026, first on Sun 04 Jan
0 0 * * 0 | apscheduler | 52 times in 2026, first on Mon 05 Jan
0 0 * * 0 | arq | 52 times in 2026, first on Mon 05 Jan
0 0 * * 0 | pycron | 52 times in 2026, first on Sun 04 Jan
0 0 * * 0 | croniter | 52 times in 2026, first on Sun 04 Jan
0 0 * * 7 | celery | refused
0 0 * * 7 | huey | 52 times in 2026, first on Sun 04 Jan
0 0 * * 7 | crontab | 52 times in 2026, first on Sun 04 Jan
0 0 * * 7 | apscheduler | refused
0 0 * * 7 | pycron | 0 times in 2026
0 0 * * 7 | croniter | 52 times in 2026, first on Sun 04 Jan
0 0 * * 5-7 | celery | refused
0 0 * * 5-7 | huey | 156 times in 2026, first on Fri 02 Jan
0 0 * * 5-7 | crontab | 156 times in 2026, first on Fri 02 Jan
0 0 * * 5-7 | apscheduler | refused
0 0 * * 5-7 | pycron | 104 times in 2026, first on Fri 02 Jan
0 0 * * 5-7 | croniter | 156 times in 2026, first on Fri 02 Jan
EOF
