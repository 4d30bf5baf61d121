#!/usr/bin/env bash
# OpenTelemetry for Celery: a `delay()` that fails leaves its span open and current, and what follows becomes part of its trace
#
# Guess: a `delay()` that raises ends its span with an error; the next one is no relative of it. `send_task` does as `delay`.
#
# Seen: opentelemetry-instrumentation-celery 0.66b2, celery 5.7.0, kombu 5.7.0, redis-py 8.1.0, with no server at the broker's
# address: the span is not ended, so it is not exported, and it stays current: the sends that follow in that thread are its
# children, in a trace without a root, or up to the end of the span around it. An error of the serializer does the same.
# Of a task that the app does not know, by `send_task`, the span is over before anything is sent, and exported without an error.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 redis==8.1.0 opentelemetry-sdk==1.45.2 opentelemetry-instrumentation-celery==0.66b2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os, threading
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

logging.disable(logging.CRITICAL)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()
app = Celery("app", broker="memory://", set_as_current=False)
unreachable = app.connection(f"redis+socket://{os.environ['DIR']}/none")

@app.task(name="task")
def task():
    pass

def send(step, call):
    exporter.clear()
    try:
        call()
        ended = "sent"
    except Exception as error:
        ended = type(error).__name__
    spans = [f"{'a child' if span.parent else 'a root'}, {span.status.status_code.name}" for span in exporter.get_finished_spans()]
    current = trace.get_current_span().is_recording()
    print(f"  {step}: {ended} | its span: {', '.join(spans) or 'not exported'} | a span is current: {current}", flush=True)

def in_a_thread(title, fails):
    def run():
        print(title)
        send("before", task.delay)
        send("fails", fails)
        send("after", task.delay)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

in_a_thread("no server", lambda: task.apply_async(connection=unreachable, retry=False))
in_a_thread("unknown serializer", lambda: task.apply_async(serializer="unknown"))
in_a_thread("no server, send_task of a task that this app does not have", lambda: app.send_task("elsewhere.task", connection=unreachable, retry=False))
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
no server
  before: sent | its span: a root, UNSET | a span is current: False
  fails: OperationalError | its span: not exported | a span is current: True
  after: sent | its span: a child, UNSET | a span is current: True
unknown serializer
  before: sent | its span: a root, UNSET | a span is current: False
  fails: SerializerNotInstalled | its span: not exported | a span is current: True
  after: sent | its span: a child, UNSET | a span is current: True
no server, send_task of a task that this app does not have
  before: sent | its span: a root, UNSET | a span is current: False
  fails: OperationalError | its span: a root, UNSET | a span is current: False
  after: sent | its span: a root, UNSET | a span is current: False
EOF
