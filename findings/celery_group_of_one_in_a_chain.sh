#!/usr/bin/env bash
# Celery: behind a group in a chain, the next task gets a list, unless the group has one task or none
#
# Guess: `chain(first, group(tasks), collect)` hands `collect` a list of as many results as there are tasks; a group in a
# group is a list in the list.
#
# Seen: celery 5.7.0, kombu 5.7.0: of one task `collect` gets the bare result, of none the result of `first`. At the head of
# a chain it is the same, but `group(tasks) | collect` and a chord give lists of one. So a fan-out over data breaks where the
# data is short. Groups in groups come flat.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery, chain, chord, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery(broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.worker_hijack_root_logger = False

@app.task
def same(x):
    return x

def ends(result):
    return result.get(timeout=10)

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for n in (2, 1, 0):
        tasks = [same.si(i) for i in range(n)]
        print(n, "tasks | chain", ends(chain(same.si("first"), group(tasks), same.s())()),
              "| at its head", ends(chain(group(tasks), same.s())()) if n else "-",
              "| by |", ends((group(tasks) | same.s())()) if n else "-",
              "| chord", ends(chord(tasks)(same.s())), flush=True)
    print("group in a group", ends(group([group([same.s(1), same.s(2)]), same.s(3)])()), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
2 tasks | chain [0, 1] | at its head [0, 1] | by | [0, 1] | chord [0, 1]
1 tasks | chain 0 | at its head 0 | by | [0] | chord [0]
0 tasks | chain first | at its head - | by | - | chord []
group in a group [1, 2, 3]
EOF
