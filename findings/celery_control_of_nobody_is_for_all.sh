#!/usr/bin/env bash
# Celery: a remote command for an empty list of workers, or for a pattern without its matcher, is for all workers
#
# Guess: `destination=[]`, a list that a program made and that came out empty, reaches nobody, or raises. `pattern="b*"` alone is a
# glob, which is the default of kombu.matcher; together with `destination` both must hold. A matcher that does not exist raises.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport), three workers: both are for all three: `cancel_consumer("celery",
# destination=[])` stops all of them from consuming. The pattern counts only beside a `matcher`, and not at all beside a
# `destination`. With a misspelt matcher no worker answers, and the caller gets no error.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import contextlib, logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.worker_hijack_root_logger = False

def ask(command="ping", **given):
    answers = app.control.broadcast(command, reply=True, timeout=2, limit=3, **given)
    return " ".join(sorted(name for answer in answers for name in answer)) or "nobody"

with contextlib.ExitStack() as stack:
    for name in ("a1@host", "a2@host", "b1@host"):
        stack.enter_context(start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL", hostname=name))
    for given in ({"destination": ["b1@host"]}, {"destination": []}, {"pattern": "b*"}, {"pattern": "b*", "matcher": "glob"},
                  {"pattern": "b*", "matcher": "glob", "destination": ["a1@host"]}, {"pattern": "b*", "matcher": "globs"}):
        print(given, "|", ask(**given), flush=True)
    print("cancel_consumer, destination=[] |", ask("cancel_consumer", destination=[], arguments={"queue": "celery"}))
    queues = app.control.inspect(timeout=2, limit=3).active_queues()
    print("queues that are consumed |", {name: len(queues[name]) for name in sorted(queues)}, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
{'destination': ['b1@host']} | b1@host
{'destination': []} | a1@host a2@host b1@host
{'pattern': 'b*'} | a1@host a2@host b1@host
{'pattern': 'b*', 'matcher': 'glob'} | b1@host
{'pattern': 'b*', 'matcher': 'glob', 'destination': ['a1@host']} | a1@host
{'pattern': 'b*', 'matcher': 'globs'} | nobody
cancel_consumer, destination=[] | a1@host a2@host b1@host
queues that are consumed | {'a1@host': 0, 'a2@host': 0, 'b1@host': 0}
EOF
