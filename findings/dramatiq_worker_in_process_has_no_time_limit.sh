#!/usr/bin/env bash
# dramatiq: in a Worker that is started in the process, as tests do, `time_limit` does nothing; a misspelt option is taken by send_with_options
#
# Guess: `@actor(time_limit=300)` ends a job within about a second after 300 ms wherever a worker runs it, since the middleware
# is one of the default ones. `send_with_options(dealy=...)` is refused, as `@actor(max_retrys=3)` is.
#
# Seen: dramatiq 2.2.1 (StubBroker): the thread that watches the time is started by the `process_boot` of the command line
# alone. In a test's `Worker(broker).start()` a job of three seconds runs to its end; after `broker.emit_after("process_boot")`
# it is interrupted. `dealy=60000` is kept as an option of the message, and the job runs at once.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  dramatiq==2.2.1 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, time
import dramatiq
from dramatiq.brokers.stub import StubBroker

logging.disable(logging.CRITICAL)
broker = StubBroker()
dramatiq.set_broker(broker)
ended = []

@dramatiq.actor(time_limit=300, max_retries=0)
def job():
    end = time.monotonic() + 3
    try:
        while time.monotonic() < end:
            time.sleep(0.01)
        ended.append("ran to its end")
    except BaseException as error:
        ended.append(type(error).__name__)
        raise

@dramatiq.actor
def quick():
    ended.append("ran at once")

worker = dramatiq.Worker(broker, worker_timeout=100)
worker.start()
job.send()
time.sleep(4)
print("time_limit=300 | Worker.start():", ended.pop())
broker.emit_after("process_boot")
job.send()
time.sleep(4)
print("time_limit=300 | after process_boot:", ended.pop())
message = quick.send_with_options(dealy=60_000)
time.sleep(1)
print("send_with_options(dealy=60000) | options:", message.options, "|", ended.pop())
try:
    dramatiq.actor(lambda: None, actor_name="other", max_retrys=3)
except ValueError as error:
    print("actor(max_retrys=3) |", type(error).__name__)
worker.stop()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
time_limit=300 | Worker.start(): ran to its end
time_limit=300 | after process_boot: TimeLimitExceeded
send_with_options(dealy=60000) | options: {'dealy': 60000} | ran at once
actor(max_retrys=3) | ValueError
EOF
