#!/usr/bin/env bash
# A task made of a lambda is declared without a word; the app's first look at its tasks raises SyntaxError, the second lacks it
#
# Guess: with a name given, `app.task` takes a lambda and a bound method as it takes a function; what it does not take it
# refuses where it is declared.
#
# Seen: Celery 5.7.0: both declarations succeed. The first look at `app.tasks` raises `SyntaxError: invalid syntax`: the
# signature is checked by a generated function of the lambda's name, `<lambda>`. The second look succeeds, without that task.
# A bound method is registered and counts its arguments with `self`: called with the two that it takes, it lacks one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir" celery==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir python3 - <<'EOF'
from celery import Celery

class Calculator:
    def add(self, x, y):
        return x + y

app = Celery("app", broker="memory://")
app.task(lambda x: 2 * x, name="doubled")
added = app.task(Calculator().add, name="added")
for look in ("first", "second"):
    try:
        print(look, [name for name in app.tasks if not name.startswith("celery.")])
    except SyntaxError as error:
        print(look, "SyntaxError", error.msg)
try:
    added.delay(1, 2)
except TypeError as error:
    print(str(error).replace("Calculator.", ""))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
first SyntaxError invalid syntax
second ['added']
add() missing 1 required positional argument: 'y'
EOF
