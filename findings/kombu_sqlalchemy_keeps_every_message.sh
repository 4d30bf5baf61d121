#!/usr/bin/env bash
# Kombu's SQLAlchemy transport: acked messages stay in the table for good, those of a worker that died are never offered again
#
# Guess: an ack deletes the row, so the table holds what waits and what is being worked on; the messages of a process that was
# killed come back, after a visibility timeout or to the next consumer. Priority counts, or the column is not there.
#
# Seen: kombu 5.7.0, SQLAlchemy 2.1.9, SQLite: a message that is taken is marked as invisible, an ack does nothing to it, so the
# table, with all bodies, grows for ever. What a process had unacked that ended without a close stays invisible too, among the
# acked ones. Priority has no effect. An orderly close and a requeue write a new row.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 sqlalchemy==2.1.9 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, sqlite3
from kombu import Connection, Exchange, Queue

file = f"{os.environ['DIR']}/broker"

def opened():
    connection = Connection(f"sqla+sqlite:///{file}")
    queue = Queue("jobs", Exchange("jobs"), "jobs")(connection.default_channel)
    queue.declare()
    return connection, queue

def rows():
    with sqlite3.connect(file) as database:
        visible = [flag for flag, in database.execute("SELECT visible FROM kombu_message")]
    return f"| rows {len(visible)}, visible {sum(visible)}"

connection, queue = opened()
send = connection.Producer().publish
for number in range(100):
    send(number, exchange="jobs", routing_key="jobs")
print("100 sent", rows())
while message := queue.get():
    message.ack()
print("100 taken and acked", rows(), flush=True)
for number, priority in enumerate((5, 9, 0)):
    send(number, exchange="jobs", routing_key="jobs", priority=priority)
if not (child := os.fork()):
    print("a process takes", opened()[1].get().payload, "and ends without a close", rows(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
connection.close()
connection, queue = opened()
got = []
while message := queue.get():
    got.append(message.payload)
print("a new one takes", got, rows())
connection.close()
print("and closes without an ack", rows())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
100 sent | rows 100, visible 100
100 taken and acked | rows 100, visible 0
a process takes 0 and ends without a close | rows 103, visible 2
a new one takes [1, 2] | rows 103, visible 0
and closes without an ack | rows 105, visible 2
EOF
