#!/usr/bin/env bash
# Celery: an exception made of keywords does not arrive as itself, though its class is known; nor do an ExceptionGroup and a file's name
#
# Guess: `get()` raises what the task raised, where the caller can import its class: `except Unpaid` works.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport, JSON): only what can be made anew from its `args`. A class whose __init__
# takes keywords comes as UnpickleableExceptionWrapper, a subclass of Exception and of nothing else; an ExceptionGroup as a
# plain Exception whose text holds its repr. Of FileNotFoundError the `filename` is lost, and of any exception its attributes
# and notes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
app = Celery("t", broker="memory://", backend="cache+memory://")
app.conf.worker_hijack_root_logger = False

class Unpaid(Exception):
    def __init__(self, *, invoice):
        super().__init__(f"invoice {invoice}")
        self.invoice = invoice

class Late(Exception):
    pass

def late():
    error = Late("by", 3)
    error.days = 3
    error.add_note("a note")
    return error

MADE = {
    "of args, with an attribute and a note": late,
    "of keywords": lambda: Unpaid(invoice=7),
    "a group": lambda: ExceptionGroup("two", [ValueError(1), KeyError(2)]),
    "of a file": lambda: FileNotFoundError(2, "No such file", "/etc/none"),
}

@app.task
def fail(how):
    raise MADE[how]()

with start_worker(app, pool="solo", perform_ping_check=False):
    for how, make in MADE.items():
        try:
            fail.delay(how).get(timeout=10)
        except Exception as error:
            kept = [name for name in ("invoice", "days", "filename", "__notes__") if getattr(error, name, None)]
            print(how, "|", type(error).__name__, error.args, "| of its class:", isinstance(error, type(make())), "| kept:", *kept or ["-"], flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
of args, with an attribute and a note | Late ('by', 3) | of its class: True | kept: -
of keywords | UnpickleableExceptionWrapper ('__main__', 'Unpaid', ('invoice 7',), "Unpaid('invoice 7')") | of its class: False | kept: -
a group | Exception ("<class 'ExceptionGroup'>(['two', '[ValueError(1), KeyError(2)]'])",) | of its class: False | kept: -
of a file | FileNotFoundError (2, 'No such file') | of its class: True | kept: -
EOF
