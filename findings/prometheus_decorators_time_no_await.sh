#!/usr/bin/env bash
# prometheus-client: `@histogram.time()` on an async function takes the time in which its coroutine is made
#
# Guess: the decorators of prometheus-client work on `async def` as on `def`, or refuse it: `time()` measures until it returns,
# `count_exceptions()` counts what it raises, `track_inprogress()` is 1 while it runs.
#
# Seen: prometheus-client 0.26.0, CPython 3.11: the calls are counted, each with a few microseconds; no exception is counted, and
# the gauge is 0 while the function runs. Generators fare the same. Nothing warns. As context managers inside the function they
# do as one guesses.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  prometheus-client==0.26.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, time
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

def metrics():
    registry = CollectorRegistry()
    return registry, Histogram("seconds", "-", registry=registry), Counter("errors", "-", registry=registry), Gauge("running", "-", registry=registry)

def told(name, registry, running):
    value = registry.get_sample_value
    print(f"{name} | calls {value('seconds_count'):.0f} | took 0.1 s: {value('seconds_sum') >= 0.1} | errors {value('errors_total'):.0f}"
          f" | running, as seen inside: {running:.0f}")

for name in ("decorators", "context managers"):
    registry, seconds, errors, gauge = metrics()
    inside = []

    async def work():
        inside.append(registry.get_sample_value("running"))
        await asyncio.sleep(0.11)
        raise ValueError

    if name == "decorators":
        measured = seconds.time()(errors.count_exceptions()(gauge.track_inprogress()(work)))
    else:
        async def measured():
            with seconds.time(), errors.count_exceptions(), gauge.track_inprogress():
                await work()
    async def main():
        try:
            await measured()
        except ValueError:
            pass
    asyncio.run(main())
    told(f"async def, {name}", registry, inside[0])

registry, seconds, errors, gauge = metrics()

@seconds.time()
def lines():
    time.sleep(0.11)
    yield registry.get_sample_value("running")

list(lines())
told("generator, decorators", registry, 0)

registry, seconds, errors, gauge = metrics()
inside = []

@seconds.time()
@errors.count_exceptions()
@gauge.track_inprogress()
def plain():
    inside.append(registry.get_sample_value("running"))
    time.sleep(0.11)
    raise ValueError

try:
    plain()
except ValueError:
    pass
told("def, decorators", registry, inside[0])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
async def, decorators | calls 1 | took 0.1 s: False | errors 0 | running, as seen inside: 0
async def, context managers | calls 1 | took 0.1 s: True | errors 1 | running, as seen inside: 1
generator, decorators | calls 1 | took 0.1 s: False | errors 0 | running, as seen inside: 0
def, decorators | calls 1 | took 0.1 s: True | errors 1 | running, as seen inside: 1
EOF
