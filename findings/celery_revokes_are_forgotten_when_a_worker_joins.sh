#!/usr/bin/env bash
# Celery: three hours after a revoke, the next worker that starts makes all others forget it, and the task for tomorrow runs
#
# Guess: a revoke holds until the task comes, as long as the worker lives, and with `--statedb` longer. The manual says that
# revokes expire after CELERY_WORKER_REVOKE_EXPIRES, three hours, "when the limit has been exceeded" of 50,000.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): a worker that is left alone keeps it for good. A worker that starts says
# hello to the others, and each of them drops what is older than three hours before it answers, whatever their number; so each
# deployment does it, or one worker more. `--statedb` leaves them out at a stop. revoke() did set the result to REVOKED, and the
# task that runs sets it to SUCCESS. The three hours are three seconds here, by that variable.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir CELERY_WORKER_REVOKE_EXPIRES=3 PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import state

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})
ran = []

@app.task
def remind(who):
    ran.append(who)

def revoked(who):
    result = remind.apply_async((who,), countdown=8)
    app.control.revoke(result.id)
    return result

with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
    for who in ("left alone", "a worker joins"):
        result = revoked(who)
        end = time.monotonic() + 10
        while result.id not in state.revoked and time.monotonic() < end:
            time.sleep(0.02)
        due = time.monotonic() + 8
        at_once = app.AsyncResult(result.id).state
        time.sleep(3.5)  # the revoke is older than REVOKE_EXPIRES
        if who == "a worker joins":
            app.control.inspect(timeout=1)._request("hello", from_node="new@host", revoked=[])
        time.sleep(due + 2 - time.monotonic())
        print(f"{who}: {at_once} when it was revoked, {app.AsyncResult(result.id).state} when it was due, ran: {who in ran}", flush=True)

    state.revoked.add("old", time.monotonic() - 4)
    state.revoked.add("new")
    state.Persistent(state, os.environ["DIR"] + "/statedb").save()  # what a worker with --statedb does at its stop
    print("after a stop with --statedb:", [name for name in ("old", "new") if name in state.revoked], flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
left alone: REVOKED when it was revoked, REVOKED when it was due, ran: False
a worker joins: REVOKED when it was revoked, SUCCESS when it was due, ran: True
after a stop with --statedb: ['new']
EOF
