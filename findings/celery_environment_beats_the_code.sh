#!/usr/bin/env bash
# Celery: CELERY_BROKER_URL in the environment beats `Celery(broker=...)` and the settings, in each app; `celery report` shows the other
#
# Guess: Celery reads no environment of its own; a project's settings do (`os.environ.get("CELERY_BROKER_URL", ...)`). If it
# does, it is a default, and what the code says is nearer.
#
# Seen: celery 5.7.0: `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND` win over the arguments, over `app.conf.broker_url = ...`
# and over a module of settings. A second app of the process, for another broker, goes to the same one. `app.conf["broker_url"]`
# and `app.conf.humanize()`, which `celery report` prints, have what the code said and nobody uses. `CELERY_TASK_ALWAYS_EAGER`
# has no such power. Only a URL given to `app.connection()` is used as it is.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 2>/dev/null
seen=$(CELERY_BROKER_URL=redis://environment CELERY_RESULT_BACKEND=cache+memory:// CELERY_TASK_ALWAYS_EAGER=1 \
  PYTHONPATH=$dir/lib python3 - <<'EOF'
from celery import Celery

def used(app):
    return app.connection_for_write().hostname, type(app.backend).__name__

orders = Celery("orders", broker="redis://argument", backend="redis://argument")
print("arguments:", *used(orders))

billing = Celery("billing")
billing.conf.update(broker_url="redis://conf", result_backend="redis://conf")
print("conf.update:", *used(billing))
print("  conf[...]:", billing.conf["broker_url"], "conf.broker_url:", billing.conf.broker_url)
print("  report:", *(line for line in billing.conf.humanize().splitlines() if line.startswith("broker_url")))

module = Celery("module")
module.config_from_object({"broker_url": "redis://module", "result_backend": "redis://module"})
print("config_from_object:", *used(module))

print("app.connection(url):", module.connection("redis://given").hostname)
print("task_always_eager:", module.conf.task_always_eager)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
arguments: environment CacheBackend
conf.update: environment CacheBackend
  conf[...]: redis://conf conf.broker_url: redis://environment
  report: broker_url: 'redis://:********@conf:6379//'
config_from_object: environment CacheBackend
app.connection(url): given
task_always_eager: False
EOF
