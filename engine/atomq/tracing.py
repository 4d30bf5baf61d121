"""Spans of OpenTelemetry: one when a message is sent, received, processed and settled.

`AtomqInstrumentor().instrument()` switches them on, as `opentelemetry-instrument` does by itself;
until then nothing of OpenTelemetry is imported and `active` is None, which is all that queues ask.
Needs the API alone (`atomq[otel]`). Names follow the semantic conventions for messaging (1.44, in
development). Messages of Celery are traced by Celery's own instrumentor, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from atomq.errors import InvalidMessage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, TracerProvider

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

active: Tracing | None = None
"""What makes spans; None: nothing does."""


class Watcher(Protocol):
    """What hears of the work on each message, in its `with` block. It raises nothing."""

    def began(self, message: Any) -> Any:
        """The work begins. What is answered comes back with `ended`."""
        ...

    def ended(self, message: Any, begun: Any, error: BaseException | None) -> None:
        """The work ended, and the message is settled; `error` is what the block raised."""
        ...


watchers: tuple[Watcher, ...] = ()
"""Those that there are; mostly none."""


def watch(watcher: Watcher) -> None:
    """Have it hear of the work from now on."""
    global watchers  # noqa: PLW0603 # read for each message
    watchers = (*watchers, watcher)


def watch_no_more(watcher: Watcher) -> None:
    """Have it hear of no more that begins; of what has begun it hears the end."""
    global watchers  # noqa: PLW0603 # as above
    watchers = tuple(each for each in watchers if each is not watcher)


Watched = Sequence[tuple[Watcher, Any]]


def begin(message: Any) -> Watched:
    """Say that the work on a message begins; the listeners that heard of it."""
    return [(watcher, watcher.began(message)) for watcher in watchers]


def end(message: Any, watched: Watched, error: BaseException | None) -> None:
    """Say that it ended, to all that heard of its beginning."""
    for watcher, begun in reversed(watched):
        watcher.ended(message, begun, error)


class AtomqInstrumentor:
    """Switches the spans of atomq on and off, as the instrumentors of OpenTelemetry do."""

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        use_span_links: bool = True,
        **_: Any,
    ) -> None:
        """Make spans from now on, with the provider that is set, or this one.

        With `use_span_links` the spans of a consumer are in traces of their own, linked to the span
        that sent the message; without, they are its children, and one trace shows a message from
        `put` to `ack`. Raises `ImportError` without OpenTelemetry's API.
        """
        global active  # noqa: PLW0603 # the switch
        made = Tracing(tracer_provider, use_span_links=use_span_links)
        self.uninstrument()
        active = made
        watch(made)

    def uninstrument(self, **_: Any) -> None:
        """Make none any more."""
        global active  # noqa: PLW0603 # the switch
        if active is not None:
            watch_no_more(active)
        active = None


class Tracing:
    """Makes spans. `where` is a queue: its name, and its engine's address."""

    def __init__(self, provider: TracerProvider | None, *, use_span_links: bool) -> None:
        try:
            from opentelemetry import context, propagate, trace
        except ImportError as error:
            raise ImportError('tracing needs OpenTelemetry: pip install "atomq[otel]"') from error
        from atomq import __version__

        self._context, self._propagate, self._trace = context, propagate, trace
        self._tracer = trace.get_tracer("atomq", __version__, provider, _SCHEMA)
        self._links = use_span_links

    # ── producers ─────────────────────────────────────────────────────────────────────────────

    def injected(self, headers: Mapping[str, Any] | None) -> dict[str, Any]:
        """The headers of a message with the context of the span that sends it."""
        carrier = dict(headers or {})
        self._propagate.inject(carrier)
        return carrier

    @contextmanager
    def sending(self, where: Any, count: int | None = None) -> Iterator[Callable[[str], None]]:
        """The span of a `put`, or of a batch of so many. Its context is that of the messages.

        What it gives takes the id of the message, once there is one.
        """
        kind = self._trace.SpanKind.PRODUCER
        attributes = self._attributes(where, "send", "send", count)
        with (
            self._tracer.start_as_current_span(
                f"send {where.name}", kind=kind, attributes=attributes
            ) as span,
            self._failing(span),
        ):
            yield partial(span.set_attribute, "messaging.message.id")

    # ── consumers ─────────────────────────────────────────────────────────────────────────────

    def received(self, where: Any, messages: Sequence[Any], began_ns: int = 0) -> None:
        """These were handed to the caller that asked for them at `began_ns`, by `time_ns` (0: now).

        A message that a consumer fetched ahead has this span once it is handed over, not before.
        """
        one = messages[0] if len(messages) == 1 else None
        attributes = self._attributes(
            where, "receive", "receive", None if one is not None else len(messages)
        )
        if one is not None:
            attributes |= self._of(one)
        parent, links = self._came_from(messages)
        self._tracer.start_span(
            f"receive {where.name}",
            parent,
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            links=links,
            start_time=began_ns or None,
        ).end()

    def began(self, message: Any) -> tuple[Any, Any]:
        """Begin the span of the work on a message, and make it the current one."""
        where = message._queue
        parent, links = self._came_from([message])
        span = self._tracer.start_span(
            f"process {where.name}",
            parent,
            kind=self._trace.SpanKind.CONSUMER,
            attributes=self._attributes(where, "process", "process") | self._of(message),
            links=links,
        )
        return span, self._context.attach(self._trace.set_span_in_context(span))

    def ended(self, message: Any, begun: Any, error: BaseException | None) -> None:  # noqa: ARG002
        """End it."""
        span, token = begun
        if error is not None:
            self._fail(span, error)
        self._context.detach(token)
        span.end()

    @contextmanager
    def settling(self, where: Any, verb: str, messages: Sequence[Any]) -> Iterator[None]:
        """The span of an `ack`, `release`, `reject` or `complete` that is sent by itself."""
        one = messages[0] if len(messages) == 1 else None
        attributes = self._attributes(
            where, verb, "settle", None if one is not None else len(messages)
        )
        if one is not None:
            attributes |= self._of(one)
        with (
            self._tracer.start_as_current_span(
                f"{verb} {where.name}", kind=self._trace.SpanKind.CLIENT, attributes=attributes
            ) as span,
            self._failing(span),
        ):
            yield

    # ── what they have in common ──────────────────────────────────────────────────────────────

    def _attributes(
        self, where: Any, name: str, kind: str, count: int | None = None
    ) -> dict[str, Any]:
        address = where.engine.address
        found: dict[str, Any] = {
            "messaging.system": "atomq",
            "messaging.destination.name": where.name,
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
        }
        if address.host is not None:
            found["server.address"] = address.host
        if address.port is not None:
            found["server.port"] = address.port
        if count is not None:
            found["messaging.batch.message_count"] = count
        return found

    def _of(self, message: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"atomq.message.delivery": message.deliveries}
        with suppress(InvalidMessage):
            found["messaging.message.id"] = message._delivery.envelope.id
        return found

    def _came_from(self, messages: Sequence[Any]) -> tuple[Context | None, list[Link]]:
        """The parent and the links of a span of these messages."""
        contexts = [self._context_of(message) for message in messages]
        if not self._links and len(messages) == 1:
            return contexts[0], []
        spans = [self._trace.get_current_span(each).get_span_context() for each in contexts if each]
        return None, [self._trace.Link(each) for each in spans if each.is_valid]

    def _context_of(self, message: Any) -> Context | None:
        try:
            headers = message._delivery.envelope.headers
        except InvalidMessage:
            return None
        found = self._propagate.extract({k: v for k, v in headers.items() if isinstance(v, str)})
        span = self._trace.get_current_span(found).get_span_context()
        return found if span.is_remote else None

    @contextmanager
    def _failing(self, span: Span) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise

    def _fail(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.record_exception(error)
        status = self._trace.Status(
            self._trace.StatusCode.ERROR, f"{type(error).__name__}: {error}"
        )
        span.set_status(status)


_NOTHING = nullcontext()


def settling(where: Any, verb: str, messages: Sequence[Any]) -> AbstractContextManager[None]:
    """`Tracing.settling`, where spans are made."""
    return _NOTHING if active is None else active.settling(where, verb, messages)
