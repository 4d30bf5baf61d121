#!/usr/bin/env bash
# Celery: a crontab of every ten minutes makes a pause of over an hour when the clocks go back
#
# Guess: `crontab(minute="*/10")` is due six times in each hour, the repeated one too; only what has an hour of its own, as
# `crontab(hour=1, minute=30)`, must choose.
#
# Seen: celery 5.7.0, timezone America/New_York and Europe/Berlin: the second 01:00 to 02:00 (02:00 to 03:00) has no run at
# all, so runs that are ten minutes apart are seventy apart there, and hourly ones two hours. A `schedule` of 600 s goes on.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 tzdata==2026.6 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo
from celery import Celery
from celery.schedules import crontab, schedule

for zone, midnight in (("America/New_York", datetime(2026, 11, 1, 4)), ("Europe/Berlin", datetime(2026, 10, 24, 22))):
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.timezone = zone
    midnight = midnight.replace(tzinfo=timezone.utc)
    for name, make in (
        ("crontab(minute='*/10')", lambda now: crontab(minute="*/10", app=app, nowfun=now)),
        ("crontab(minute=0)", lambda now: crontab(minute=0, app=app, nowfun=now)),
        ("schedule(600)", lambda now: schedule(600, app=app, nowfun=now)),
    ):
        clock = [midnight.astimezone(ZoneInfo(zone))]
        entry, last, runs = make(lambda: clock[0]), clock[0], []
        while clock[0].astimezone(timezone.utc) < midnight + timedelta(hours=6):
            if entry.is_due(last).is_due:
                last = clock[0]
                runs.append(last.astimezone(timezone.utc))
            clock[0] = (clock[0].astimezone(timezone.utc) + timedelta(minutes=1)).astimezone(ZoneInfo(zone))
        gaps = [(b - a) // timedelta(minutes=1) for a, b in zip(runs, runs[1:])]
        print(zone, name, "| minutes between runs:", min(gaps), "to", max(gaps))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
America/New_York crontab(minute='*/10') | minutes between runs: 10 to 70
America/New_York crontab(minute=0) | minutes between runs: 60 to 120
America/New_York schedule(600) | minutes between runs: 10 to 10
Europe/Berlin crontab(minute='*/10') | minutes between runs: 10 to 70
Europe/Berlin crontab(minute=0) | minutes between runs: 60 to 120
Europe/Berlin schedule(600) | minutes between runs: 10 to 10
EOF
