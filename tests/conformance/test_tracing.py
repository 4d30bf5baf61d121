"""Spans of OpenTelemetry, as its SDK exports them: from `put` to `ack`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from atomq import AsyncQueue, Item, Queue
from atomq.tracing import AtomqInstrumentor
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
Spans = Callable[[], dict[str, ReadableSpan]]


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider()


@pytest.fixture
def spans(provider: TracerProvider) -> Spans:
    """The spans that ended, by what they are of."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def ended() -> dict[str, ReadableSpan]:
        found = {span.name.removesuffix(" q"): span for span in exporter.get_finished_spans()}
        exporter.clear()
        return found

    return ended


@pytest.fixture(params=[True, False], ids=["links", "parents"])
def links(request: pytest.FixtureRequest, provider: TracerProvider) -> Iterator[bool]:
    AtomqInstrumentor().instrument(tracer_provider=provider, use_span_links=request.param)
    yield request.param
    AtomqInstrumentor().uninstrument()


def check(found: dict[str, ReadableSpan], message_id: str, *, links: bool) -> None:
    """`put` to `ack`: kinds, names, and how they hang together."""
    sent, received, processed, acked = (
        found[name] for name in ("send", "receive", "process", "ack")
    )
    assert [span.kind for span in (sent, received, processed, acked)] == [
        SpanKind.PRODUCER,
        SpanKind.CLIENT,
        SpanKind.CONSUMER,
        SpanKind.CLIENT,
    ]
    assert sent.context is not None
    assert processed.context is not None
    assert acked.parent is not None
    assert acked.parent.span_id == processed.context.span_id
    for span in (received, processed):
        if links:
            assert [link.context.span_id for link in span.links] == [sent.context.span_id]
            assert span.parent is None
        else:
            assert span.parent is not None
            assert span.parent.span_id == sent.context.span_id
    traces = {span.context.trace_id for span in found.values() if span.context}
    assert len(traces) == (3 if links else 1)
    for name, span in found.items():
        attributes = dict(span.attributes or {})
        assert attributes["messaging.system"] == "atomq"
        assert attributes["messaging.destination.name"] == "q"
        assert attributes["messaging.operation.name"] == name
        assert attributes["messaging.operation.type"] == {"ack": "settle"}.get(name, name)
        assert attributes["messaging.message.id"] == message_id
        assert "messaging.batch.message_count" not in attributes


def test_a_message_from_put_to_ack(server: Server, spans: Spans, links: bool) -> None:
    with Queue("q", server.tcp_url) as queue:
        sent = queue.put("x", headers={"mine": "1"})
        message = queue.claim()
        assert message is not None
        assert message.headers["mine"] == "1"
        with message:
            pass
    found = spans()
    check(found, sent.id, links=links)
    assert (found["send"].attributes or {})["server.port"] == server.port


def test_a_message_from_put_to_ack_in_asyncio(server: Server, spans: Spans, links: bool) -> None:
    async def run() -> str:
        async with AsyncQueue("q", server.url) as queue:
            sent = await queue.put("x")
            message = await queue.claim()
            assert message is not None
            async with message:
                await message.ack()
            return sent.id

    message_id = asyncio.run(run())
    check(spans(), message_id, links=links)


def test_what_is_fetched_ahead_has_no_span_until_it_is_handed_over(
    server: Server, spans: Spans, provider: TracerProvider
) -> None:
    AtomqInstrumentor().instrument(tracer_provider=provider)
    try:
        with Queue("q", server.url) as queue:
            queue.put_many([1, Item(2)])
            batch = spans()["send"]
            assert (batch.attributes or {})["messaging.batch.message_count"] == 2
            messages = queue.consume(timeout=0)
            with next(messages):  # both are claimed
                assert spans().keys() == {"receive"}
            # Its ack rides with the next claim: a span of its own would say that it took time.
            assert spans().keys() == {"process"}
            assert [message.body for message in messages] == [2]
            assert spans().keys() == {"receive"}
    finally:
        AtomqInstrumentor().uninstrument()


def test_a_handler_that_fails_and_a_message_that_cannot_be_read(
    server: Server, spans: Spans, links: bool
) -> None:
    with Queue("q", server.url) as queue:
        queue.put("x")
        spans()
        queue.work(lambda _: 1 / 0, timeout=0)
        found = spans()
        assert (found["process"].attributes or {})["error.type"] == "ZeroDivisionError"
        assert not found["process"].status.is_ok
        assert "release" in found
        server.client().lpush("q", '{"body": 5, "headers": 7}')
        queue.work(lambda message: message.body, timeout=0)
        assert "reject" in spans()


def test_many_are_received_and_acked_in_one_span(server: Server, spans: Spans, links: bool) -> None:
    with Queue("q", server.url) as queue:
        queue.put_many([1, 2, 3])
        sent = spans()["send"]
        queue.ack_many(queue.claim_many(3))
        found = spans()
    for name in ("receive", "ack"):
        assert (found[name].attributes or {})["messaging.batch.message_count"] == 3
    assert sent.context is not None
    linked = [link.context.span_id for link in found["receive"].links]
    assert linked == [sent.context.span_id] * 3


def test_headers_are_as_they_were_given_without_it(server: Server) -> None:
    with Queue("q", server.url) as queue:
        queue.put("x")
        assert queue.claim().headers == {}  # type: ignore[union-attr]
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import atomq\n"
        f"queue = atomq.Queue('q', {server.url!r})\n"
        "queue.put(1); queue.work(print, timeout=0)\n"
        "from atomq.tracing import AtomqInstrumentor\n"
        "try:\n"
        "    AtomqInstrumentor().instrument()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "atomq[otel]"' in done.stdout


def test_opentelemetry_instrument_finds_it(kind: str) -> None:
    (found,) = entry_points(group="opentelemetry_instrumentor", name="atomq")
    assert found.value == "atomq.tracing:AtomqInstrumentor"


CELERY = """
import sys
import atomq.celery
from celery import Celery
from celery.contrib.testing.worker import start_worker
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

atomq.celery.register()
provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
CeleryInstrumentor().instrument(tracer_provider=provider)
app = Celery("shop", broker=sys.argv[1], backend=sys.argv[1])


@app.task(name="add")
def add(x, y):
    return x + y


with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
    assert add.delay(2, 3).get(timeout=20) == 5
for span in exporter.get_finished_spans():
    print(span.name, span.kind.name, span.context.trace_id)
"""


def test_celery_is_traced_by_its_own_instrumentor(server: Server) -> None:
    """The context travels in the headers of the task; they are the sender's, untouched."""
    url = server.url.replace("redis", "atomq", 1)
    run = [sys.executable, "-c", CELERY, url]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    sent, ran = (line.split() for line in done.stdout.splitlines())
    assert sent[:2] == ["apply_async/add", "PRODUCER"]
    assert ran[:2] == ["run/add", "CONSUMER"]
    assert sent[2] == ran[2]
