#!/usr/bin/env bash
# Every `celery` command, a worker too, imports the line editor of an interactive shell, and Flower where that is installed
#
# Guess: `celery worker` imports Celery, Kombu and the client of its broker; Flower runs when `celery flower` is asked for,
# and an SDK of OpenTelemetry is imported by programs that configure it.
#
# Seen: celery 5.7.0 with click-repl 0.4.1 imports prompt_toolkit, more than a hundred modules of it, for `celery --version`
# as for a worker (celery/bin/amqp.py). Flower 2.2.0 has an entry point in `celery.commands`, and Celery loads all of these at
# each start, so tornado and the whole of Flower are in every worker that has them beside it. redis-py 8.1.0 imports the
# metrics of opentelemetry-sdk 1.45.2 wherever that is installed, though nothing asked for telemetry.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
install() {
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/$1" "${@:2}" 2>/dev/null
}
install celery celery==5.7.0 kombu==5.7.0 redis==8.1.0 click-repl==0.4.1 packaging
install flower flower==2.2.0 celery==5.7.0 kombu==5.7.0 click-repl==0.4.1 packaging
install sdk opentelemetry-sdk==1.45.2
cat > "$dir/run.py" <<'EOF'
import atexit, runpy, sys

of, module, sys.argv[1:] = sys.argv[1], sys.argv[2], sys.argv[3:]


@atexit.register
def say():
    n = sum(name.partition(".")[0] == of for name in sys.modules)
    print(of, "more than 100" if n > 100 else "some" if n else "none", sep=": ", file=sys.stderr)


runpy.run_module(module, run_name="__main__", alter_sys=True)
EOF
modules() { # of a package that a program imports: none, some, or more than a hundred
  PYTHONPATH=$1 python3 -S -W ignore "$dir/run.py" "${@:2}" 2>&1 >/dev/null
}
seen=$(
  echo "celery"
  for name in prompt_toolkit redis flower tornado; do modules "$dir/celery" $name celery --version; done
  echo "celery beside flower"
  for name in flower tornado; do modules "$dir/celery:$dir/flower" $name celery --version; done
  echo "redis"
  modules "$dir/celery" opentelemetry redis.exceptions
  echo "redis beside the SDK"
  modules "$dir/celery:$dir/sdk" opentelemetry redis.exceptions
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
celery
prompt_toolkit: more than 100
redis: none
flower: none
tornado: none
celery beside flower
flower: some
tornado: some
redis
opentelemetry: none
redis beside the SDK
opentelemetry: some
EOF
