#!/usr/bin/env bash
# Celery: `@app.task` of one app is a task of every app in the process, and where two apps have one name both run one function
#
# Guess: `@app.task` is for that app, `@shared_task` for all. Two apps of one process, as in a test suite or in a service that talks
# to two brokers, may each have a task `charge`.
#
# Seen: celery 5.7.0, kombu 5.7.0: `@app.task` is shared by default: each other app has the task too and can run it. What two apps define
# under one name is one function in both, and a DuplicateTaskNameWarning says that the other is dropped. With
# `shared=False` each app has its own.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
cat >"$dir/two_apps.py" <<'EOF'
import sys, warnings
from celery import Celery

shared = sys.argv[1] == "True"
shop, tests = (Celery(name, broker="memory://", set_as_current=False) for name in ("shop", "tests"))

@shop.task(name="only_of_the_shop", shared=shared)
def only_of_the_shop():
    return "the shop"

@shop.task(name="charge", shared=shared)
def charge():
    return "the shop"

@tests.task(name="charge", shared=shared)
def charge_in_tests():
    return "the tests"

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    functions = {app.tasks["charge"].apply().get() for app in (tests, shop)}
also = "only_of_the_shop" in tests.tasks
warned = sorted({warning.category.__name__ for warning in caught})
print(f"shared={shared} | `charge` of both apps: {len(functions)} function(s)"
      f" | tests has the shop's other task: {also} | {', '.join(warned) or 'no warning'}")
EOF
seen=$(for shared in True False; do PYTHONPATH=$dir/lib python3 "$dir/two_apps.py" $shared; done)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
shared=True | `charge` of both apps: 1 function(s) | tests has the shop's other task: True | DuplicateTaskNameWarning
shared=False | `charge` of both apps: 2 function(s) | tests has the shop's other task: False | no warning
EOF
