#!/usr/bin/env bash
# django-celery-beat: a task that is switched off and on again in the admin waits its whole interval anew, overdue or not
#
# Guess: an interval counts from the last run. A task of each day that is enabled again after days off is overdue and runs at
# once; one that was off for a moment goes on as if nothing had been. To save another field changes nothing of that.
#
# Seen: django-celery-beat 2.9.0, Django 5.2.19, celery 5.7.0: `save()` of a disabled task, which is what the admin does, forgets
# its last run, so a day counts from the save that enables it. Switched off for a moment 23 hours after its run it comes 24 hours
# later, not one; after three days off it does not come at once either. A queryset's `update(enabled=...)` forgets nothing: at
# once. As long as a task has never run each save begins its interval anew, one of its description too, so a task of each day that
# is edited each day never runs.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  django-celery-beat==2.9.0 django==5.2.19 celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import datetime, logging, os
import django
from django.conf import settings

logging.disable(logging.CRITICAL)
settings.configure(USE_TZ=True, TIME_ZONE="UTC", INSTALLED_APPS=["django_celery_beat"], DEFAULT_AUTO_FIELD="django.db.models.AutoField",
                   DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{os.environ['DIR']}/db"}})
django.setup()
from celery import Celery
from django.core.management import call_command
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

call_command("migrate", verbosity=0)
app = Celery(broker="memory://")
app.conf.timezone = "UTC"
daily = IntervalSchedule.objects.create(every=1, period="days")
hours = lambda n: datetime.timedelta(hours=n)

def told(what, made, *changes):
    PeriodicTask.objects.all().delete()
    task = PeriodicTask.objects.create(name="t", task="t", **made)
    for change in changes:
        change(task)
        task = PeriodicTask.objects.get(name="t")
    scheduler = DatabaseScheduler(app=app, Publisher=None)
    due = scheduler.schedule["t"].is_due()
    print(what, "|", "at once" if due.is_due else f"in {due.next / 3600:.0f} h", flush=True)

def at(**fields):
    return lambda task: PeriodicTask.objects.filter(pk=task.pk).update(**fields)

def saved(**fields):
    def change(task):
        for name, value in fields.items():
            setattr(task, name, value)
        task.save()
    return change

now = timezone.now()
told("ran 23 h ago", dict(interval=daily), at(last_run_at=now - hours(23)))
told("ran 23 h ago, description saved", dict(interval=daily), at(last_run_at=now - hours(23)), saved(description="x"))
told("ran 23 h ago, disabled and enabled by save()", dict(interval=daily), at(last_run_at=now - hours(23)), saved(enabled=False), saved(enabled=True))
told("ran 23 h ago, disabled and enabled by update()", dict(interval=daily), at(last_run_at=now - hours(23)), at(enabled=False), at(enabled=True))
told("ran 72 h ago, disabled and enabled by save()", dict(interval=daily), at(last_run_at=now - hours(72)), saved(enabled=False), saved(enabled=True))
told("ran 72 h ago, disabled and enabled by update()", dict(interval=daily), at(last_run_at=now - hours(72)), at(enabled=False), at(enabled=True))
told("made 23 h ago", dict(interval=daily), at(date_changed=now - hours(23)))
told("made 23 h ago, description saved", dict(interval=daily), at(date_changed=now - hours(23)), saved(description="x"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
ran 23 h ago | in 1 h
ran 23 h ago, description saved | in 1 h
ran 23 h ago, disabled and enabled by save() | in 24 h
ran 23 h ago, disabled and enabled by update() | in 1 h
ran 72 h ago, disabled and enabled by save() | in 24 h
ran 72 h ago, disabled and enabled by update() | at once
made 23 h ago | in 1 h
made 23 h ago, description saved | in 24 h
EOF
