#!/usr/bin/env bash
# Celery: `retry_backoff=0.5` is a second and 2.7 is two, and beside it a countdown in `retry_kwargs` is not heard
#
# Guess: the factor is taken as it is: 0.5 means retries after 0.5, 1 and 2 s, 2.7 after 2.7 and 5.4. A fixed countdown in
# `retry_kwargs` is an error beside a backoff, or beats it.
#
# Seen: celery 5.7.0 (`retry_jitter=False`): the factor is cut to whole seconds, of which one is the least, a negative one too,
# and so is `retry_backoff_max`: 7.5 is 7. With a backoff the countdown of `retry_kwargs` is replaced, without one it holds, with
# its half second.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
from celery import Celery, Task

app = Celery(broker="memory://", backend="cache+memory://")
countdowns = []

class Recorded(Task):
    def retry(self, *given, **named):
        countdowns.append(named.get("countdown"))
        return super().retry(*given, **named)

def told(**options):
    countdowns.clear()

    @app.task(base=Recorded, bind=True, autoretry_for=(ValueError,), max_retries=3, retry_jitter=False, name=str(options), **options)
    def fail(self):
        raise ValueError

    fail.apply()
    print(*(f"{name}={value}" for name, value in options.items()), "| seconds:", *countdowns)

told(retry_backoff=0.5)
told(retry_backoff=2.7)
told(retry_backoff=5, retry_backoff_max=7.5)
told(retry_backoff=-2)
told(retry_backoff=3, retry_kwargs={"countdown": 0.5})
told(retry_kwargs={"countdown": 0.5})
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
retry_backoff=0.5 | seconds: 1 2 4 8
retry_backoff=2.7 | seconds: 2 4 8 16
retry_backoff=5 retry_backoff_max=7.5 | seconds: 5 7 7 7
retry_backoff=-2 | seconds: 1 2 4 8
retry_backoff=3 retry_kwargs={'countdown': 0.5} | seconds: 3 6 12 24
retry_kwargs={'countdown': 0.5} | seconds: 0.5 0.5 0.5 0.5
EOF
