#!/usr/bin/env bash
# Celery: a route's exchange beats `queue=` of the call, and an exchange or a routing key alone is ignored
#
# Guess: what the call says wins: `send_task(name, queue="q")` goes to q, whatever task_routes has; `exchange=` or
# `routing_key=` given alone is used, and `task_default_priority` is the priority of tasks that name none.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport): where task_routes names exchange and routing key, the message goes
# there, and q is declared and stays empty. `exchange="e"` without a routing key, or the other way round, goes to the default
# queue without a word. Messages of send_task have priority 0, only those of a task's own `delay` the default one.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
from celery import Celery
from kombu import Exchange, Queue

app = Celery(broker="memory://", set_as_current=False)
app.conf.task_queues = [Queue("celery"), Queue("q", Exchange("q")), Queue("by-route", Exchange("e"), routing_key="r")]
app.conf.task_routes = {"routed": {"exchange": "e", "routing_key": "r"}}
app.conf.task_default_priority = 5

@app.task(name="plain")
def plain():
    pass

with app.connection() as connection:
    queues = [queue(connection.default_channel) for queue in app.amqp.queues.values()]
    for queue in queues:
        queue.declare()
    for what, send in (
        ("routed", lambda: app.send_task("routed")),
        ("routed, queue=q", lambda: app.send_task("routed", queue="q")),
        ("plain, queue=q", lambda: app.send_task("plain", queue="q")),
        ("exchange=e alone", lambda: app.send_task("plain", exchange="e")),
        ("routing_key=r alone", lambda: app.send_task("plain", routing_key="r")),
        ("both", lambda: app.send_task("plain", exchange="e", routing_key="r")),
        ("delay", lambda: plain.delay()),
    ):
        send()
        for queue in queues:
            while message := queue.get(no_ack=True):
                print(what, "| in", queue.name, "| priority", message.properties.get("priority"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
routed | in by-route | priority 0
routed, queue=q | in by-route | priority 0
plain, queue=q | in q | priority 0
exchange=e alone | in celery | priority 0
routing_key=r alone | in celery | priority 0
both | in by-route | priority 0
delay | in celery | priority 5
EOF
