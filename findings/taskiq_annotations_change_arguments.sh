#!/usr/bin/env bash
# taskiq: an annotation makes 5 of "5" and 1 of True, and lets "five" through as it is
#
# Guess: annotations are for the reader, as in Celery and arq: a task gets what was sent. Where they are checked, what does not
# fit is refused.
#
# Seen: taskiq 0.13.0 (InMemoryBroker; pydantic 2.14.4): the worker passes each argument through pydantic by its annotation.
# What can be made to fit is changed: "5" to 5, True to 1, 0 to a date of 1970, bytes to text. What cannot ("five", 5.7, None)
# reaches the function as it was sent, and the task succeeds. So in a function with `count: int` the count may be a text.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 pydantic==2.14.4 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, datetime, logging
from taskiq import InMemoryBroker

logging.disable(logging.CRITICAL)
broker = InMemoryBroker()

@broker.task
async def whole(value: int):
    return repr(value)

@broker.task
async def day(value: datetime.date):
    return repr(value)

@broker.task
async def text(value: str):
    return repr(value)

@broker.task
async def flag(value: bool):
    return repr(value)

@broker.task
async def many(value: set[int]):
    return repr(value)

async def main():
    for task, values in ((whole, ("5", True, 5.0, 5.7, "five", None)), (day, ("2026-01-01", 0, "today")), (text, (5, b"x")),
                         (flag, ("no", "off", 2)), (many, ([1, "2"], ["x"]))):
        for value in values:
            result = await (await task.kiq(value)).wait_result(timeout=5)
            print(task.task_name.partition(":")[2], "| sent:", repr(value), "| arrives:", result.return_value, "| failed:", result.is_err)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
whole | sent: '5' | arrives: 5 | failed: False
whole | sent: True | arrives: 1 | failed: False
whole | sent: 5.0 | arrives: 5 | failed: False
whole | sent: 5.7 | arrives: 5.7 | failed: False
whole | sent: 'five' | arrives: 'five' | failed: False
whole | sent: None | arrives: None | failed: False
day | sent: '2026-01-01' | arrives: datetime.date(2026, 1, 1) | failed: False
day | sent: 0 | arrives: datetime.date(1970, 1, 1) | failed: False
day | sent: 'today' | arrives: 'today' | failed: False
text | sent: 5 | arrives: 5 | failed: False
text | sent: b'x' | arrives: 'x' | failed: False
flag | sent: 'no' | arrives: False | failed: False
flag | sent: 'off' | arrives: False | failed: False
flag | sent: 2 | arrives: 2 | failed: False
many | sent: [1, '2'] | arrives: {1, 2} | failed: False
many | sent: ['x'] | arrives: ['x'] | failed: False
EOF
