#!/usr/bin/env bash
# Celery's delay_on_commit without a broker: the transaction is committed, `atomic()` raises, and what was to follow is dropped
#
# Guess: behind the commit it is too late to raise, so a task that cannot be sent is a line in the log: `with atomic()` is left as
# usual and the other hooks run, those with `robust=True` in any case. What the task gets is what its arguments were at the call.
#
# Seen: celery 5.7.0, kombu 5.7.0, Django 5.2.19 (SQLite), with no server at the broker's address: the row is there, and the
# OperationalError of Kombu comes out of the block, so a request whose data is saved ends in an error. The hooks behind it are
# gone, other tasks and robust ones too. A list that changes before the commit is sent changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 django==5.2.19 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
import django
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
                   INSTALLED_APPS=["django.contrib.contenttypes"])
django.setup()
from celery import Celery
from celery.contrib.django.task import DjangoTask
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db.transaction import atomic, on_commit

call_command("migrate", verbosity=0)
away = Celery("away", broker=f"redis+socket://{os.environ['DIR']}/nobody", set_as_current=False, task_cls=DjangoTask)
away.conf.task_publish_retry = False
there = Celery("there", broker="memory://", set_as_current=False, task_cls=DjangoTask)
there.conf.task_always_eager = True

@away.task(name="away.task")
def task():
    pass

@there.task(name="there.show")
def show(names):
    print("the task gets", names)

try:
    with atomic():
        ContentType.objects.create(app_label="app", model="order")
        on_commit(lambda: print("the hook before"))
        task.delay_on_commit()
        show.delay_on_commit(["another task"])
        on_commit(lambda: print("the hook behind"))
        on_commit(lambda: print("the robust hook behind"), robust=True)
    print("left as usual")
except Exception as error:
    print("raises", type(error).__name__)
print("rows:", ContentType.objects.filter(app_label="app").count())
with atomic():
    names = ["ann"]
    show.delay_on_commit(names)
    names.append("bob")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
the hook before
raises OperationalError
rows: 1
the task gets ['ann', 'bob']
EOF
