#!/usr/bin/env bash
# Celery: in task_routes `?` and `[ab]` are patterns only where the name has a `*` too, and a regular expression need not match to the end
#
# Guess: names in task_routes are globs, as `tasks.*` is: `tasks.?dd` and `tasks.[ab]dd` are too. A compiled regular expression is
# matched as a whole, as a glob is. task_annotations, which looks alike, takes the same patterns.
#
# Seen: celery 5.7.0, kombu 5.7.0: a name without a star is taken literally, so these route nothing and the tasks go to the
# default queue, without a word; `tasks.[ab]*` is a pattern, with its class. `tasks\.[ab]dd` as a regular expression also routes
# `tasks.add.more`. task_annotations knows no pattern at all: only the whole name, and `*` for all.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import re
from celery import Celery

NAMES = "tasks.add", "tasks.bdd", "tasks.cdd", "tasks.add.more"

def add():
    pass

def made(**settings):
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app

for pattern in ("tasks.*", "tasks.?dd", "tasks.[ab]dd", "tasks.[ab]*", "tasks.[ab]d*d", re.compile(r"tasks\.[ab]dd")):
    router = made(task_routes={pattern: {"queue": "found"}}).amqp.router
    print("route", pattern, "|", *(name for name in NAMES if router.route({}, name)["queue"].name == "found"))
for pattern in ("tasks.add", "tasks.*", "*"):
    app = made(task_annotations={pattern: {"rate_limit": "7/s"}})
    print("annotation", pattern, "|", app.task(name="tasks.add", shared=False)(add).rate_limit)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
route tasks.* | tasks.add tasks.bdd tasks.cdd tasks.add.more
route tasks.?dd |
route tasks.[ab]dd |
route tasks.[ab]* | tasks.add tasks.bdd tasks.add.more
route tasks.[ab]d*d | tasks.add tasks.bdd
route re.compile('tasks\\.[ab]dd') | tasks.add tasks.bdd tasks.add.more
annotation tasks.add | 7/s
annotation tasks.* | None
annotation * | 7/s
EOF
