#!/usr/bin/env bash
# django-tasks' immediate backend turns tuples into lists and bytes into text, and leaves a dict's whole-number keys as they are
#
# Guess: for tests the backend passes arguments and results through JSON, as a stored task does: keys become text.
#
# Seen: django-tasks 0.12.0 with Django 5.2.19: a tuple arrives as a list and bytes as text, yet `{1: 2}` arrives, and
# comes back, with its key a number, and NaN stays NaN: what passes the tests may differ where JSON is stored. `SystemExit` of a
# task is caught: the task is FAILED, and the process goes on.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir" \
  django==5.2.19 django-tasks==0.12.0 2>/dev/null
cat >"$dir/mine.py" <<'EOF'
from django_tasks import task

@task()
def echo(x):
    return [repr(x), x]

@task()
def leave():
    raise SystemExit(3)
EOF
seen=$(PYTHONPATH=$dir python3 - 2>/dev/null <<'EOF'
import django
from django.conf import settings

backend = "django_tasks.backends.immediate.ImmediateBackend"
settings.configure(TASKS={"default": {"BACKEND": backend}}, INSTALLED_APPS=["django_tasks"], DATABASES={})
django.setup()
import mine

for value in ((1, 2), b"x", {1: 2}, float("nan")):
    print(repr(value), "->", mine.echo.enqueue(value).return_value)
left = mine.leave.enqueue()
print("SystemExit:", left.status, left.errors[0].exception_class_path)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
(1, 2) -> ['[1, 2]', [1, 2]]
b'x' -> ["'x'", 'x']
{1: 2} -> ['{1: 2}', {1: 2}]
nan -> ['nan', nan]
SystemExit: FAILED builtins.SystemExit
EOF
