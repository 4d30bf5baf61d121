#!/usr/bin/env bash
# Kombu's TokenBucket: who waits the `expected_time` for more tokens than the bucket holds is refused again, each time
#
# Guess: `can_consume(5)` of a bucket of three is an error, or `expected_time(5)` says that the time never comes (inf, None).
#
# Seen: kombu 5.7.0: a bucket of 10 tokens a second with `capacity=3` says 0.2 s for five tokens. It says 0.2 s after these 0.2 s
# too, and always: a loop that sleeps as long as it is told and asks again never ends. The rate 0, which gives out what the bucket
# begins with and then nothing, raises ZeroDivisionError. `capacity` is 1 by default, so a cost of 2 is never to be had.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import time
from kombu.utils.limits import TokenBucket

bucket = TokenBucket(10, capacity=3)
told = []
while len(told) < 5 and not bucket.can_consume(5):
    told.append(bucket.expected_time(5))
    time.sleep(told[-1])
print("five of three: told to wait", told, "| had", bucket.can_consume(5), "| three:", bucket.can_consume(3))
bucket = TokenBucket(1000)
told = []
while len(told) < 5 and not bucket.can_consume(2):
    told.append(bucket.expected_time(2))
    time.sleep(told[-1])
print("two of the default capacity: told to wait", told, "| had", bucket.can_consume(2))
bucket = TokenBucket(0)
print("rate 0:", bucket.can_consume(), bucket.can_consume())
try:
    print(bucket.expected_time())
except ZeroDivisionError as error:
    print("expected_time raises", type(error).__name__)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
five of three: told to wait [0.2, 0.2, 0.2, 0.2, 0.2] | had False | three: True
two of the default capacity: told to wait [0.001, 0.001, 0.001, 0.001, 0.001] | had False
rate 0: True False
expected_time raises ZeroDivisionError
EOF
