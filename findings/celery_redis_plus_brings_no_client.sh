#!/usr/bin/env bash
# celery-redis-plus: installed without its extra it has no Redis client
#
# Guess: a Celery transport for Redis requires a client, as `pip install celery[redis]` does.
#
# Seen: celery-redis-plus 0.4.1: Celery is among what it requires, a client is not: importing it fails. redis-py comes by
# the extra `[redis]`. It asks for Python 3.13, and imports on 3.11 with `--ignore-requires-python`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
install() {
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --ignore-requires-python \
    --target "$dir/$1" "$2" 2>/dev/null
}
install bare celery-redis-plus==0.4.1
install extra 'celery-redis-plus[redis]==0.4.1'
seen=$(
  for kind in bare extra; do
    echo "$kind | celery: $([ -d "$dir/$kind/celery" ] && echo yes || echo no), redis: $([ -d "$dir/$kind/redis" ] && echo yes || echo no)"
    PYTHONPATH=$dir/$kind python3 -c 'import celery_redis_plus; print("imported")' 2>&1 | tail -1 | cut -d: -f1
  done
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
bare | celery: yes, redis: no
ImportError
extra | celery: yes, redis: yes
imported
EOF
