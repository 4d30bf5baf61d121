#!/usr/bin/env bash
# django-tasks-db: a task whose worker was killed is RUNNING for ever: no worker takes it again, and it is never failed
#
# Guess: a task lies in the database until it is done, so when its worker was killed (out of memory, a lost machine) another one runs
# it again after some time, or marks it as failed.
#
# Seen: django-tasks-db 0.13.0, django-tasks 0.12.0, Django 5.2.19, SQLite: the next workers pass over it and run what was
# sent behind it. Its row goes on to say RUNNING, with the id of the worker that is gone, as one that is worked on does, and
# `prune_db_task_results`, which cleans up, leaves it too.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  django-tasks-db==0.13.0 django-tasks==0.12.0 django==5.2.19 2>/dev/null
cat >"$dir/settings.py" <<'EOF'
import os
SECRET_KEY = "key"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DIR"] + "/db"}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django_tasks", "django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
EOF
cat >"$dir/jobs.py" <<'EOF'
import os, time
from django_tasks import task

@task()
def job(name, seconds):
    open(f"{os.environ['DIR']}/begun.{name}", "a").close()
    time.sleep(seconds)
EOF
cat >"$dir/send.py" <<'EOF'
import django
django.setup()
from jobs import job
job.enqueue("killed", 60)
job.enqueue("next", 0)
EOF
cat >"$dir/look.py" <<'EOF'
import django
django.setup()
from django_tasks_db.models import DBTaskResult
for task in DBTaskResult.objects.order_by("enqueued_at"):
    print(task.args_kwargs["args"][0], "|", task.status, "| workers", len(task.worker_ids), "| ended", task.finished_at is not None)
EOF
export DIR=$dir PYTHONPATH=$dir/lib:$dir DJANGO_SETTINGS_MODULE=settings PYTHONWARNINGS=ignore
python3 -m django migrate --verbosity 0
python3 "$dir/send.py"
python3 -m django db_worker --verbosity 0 & worker=$!
echo $worker >"$dir/pid"
until [ -e "$dir/begun.killed" ]; do sleep 0.1; kill -0 $worker; done
kill -9 $worker
wait $worker 2>/dev/null || true
rm "$dir/pid"
seen=$(for turn in first second; do
  python3 -m django db_worker --batch --verbosity 0 2>/dev/null
  echo "after the $turn worker behind it"
  python3 "$dir/look.py"
done
python3 -m django prune_db_task_results --min-age-days 0 --failed-min-age-days 0 --verbosity 0 2>/dev/null
echo "after the pruning"
python3 "$dir/look.py")
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
after the first worker behind it
killed | RUNNING | workers 1 | ended False
next | SUCCESSFUL | workers 1 | ended True
after the second worker behind it
killed | RUNNING | workers 1 | ended False
next | SUCCESSFUL | workers 1 | ended True
after the pruning
killed | RUNNING | workers 1 | ended False
EOF
