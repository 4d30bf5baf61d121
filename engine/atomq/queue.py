"""What a user of the library holds: `Queue` and `AsyncQueue`, messages, results.

Both queues are the same: `_Queue` makes the calls and flows, the twins run them. Times are seconds
here; they become milliseconds in `calls.py`.
"""

from __future__ import annotations

import atexit
import json
import logging
import random
import weakref
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from atomq import calls, flows
from atomq.aio import AsyncEngine, AsyncWaiter
from atomq.calls import (
    Call,
    Claimed,
    Counts,
    Outgoing,
    Part,
    Peeked,
    QueueState,
    Rejection,
    Verdict,
)
from atomq.client import Engine, EngineBase, Waiter
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    InvalidMessage,
    LeaseLost,
    MessageFailed,
    QueueInUse,
    ResultTimeout,
    ServerUnavailable,
)
from atomq.flows import Consumer, Flow, Stop
from atomq.keys import QueueKeys
from atomq.leases import LeaseKeeper, keeper
from atomq.message import JSON, Delivery, Ids, Serializer, Writer, check_priority, message_ids

log = logging.getLogger("atomq.queue")

T = TypeVar("T")
EngineT = TypeVar("EngineT", bound=EngineBase)
QueueT = TypeVar("QueueT", bound="_Queue[Any]")
MessageT = TypeVar("MessageT", bound="_Message[Any]")
LONGEST = 100 * 365 * 86_400.0  # seconds: what is longer is a mistake


def default_backoff(deliveries: int) -> float:
    """Seconds until a failed message is tried again: 1, 2, 4, … 300, give or take a quarter."""
    return min(300.0, 2.0 ** (deliveries - 1)) * random.uniform(0.75, 1.25)


@dataclass(frozen=True, slots=True)
class Item:
    """One message for `put_many`, where it needs settings of its own."""

    body: Any
    delay: float = 0
    at: datetime | float | None = None
    priority: int = 0
    id: str | None = None
    headers: Mapping[str, Any] | None = None
    ttl: float | None = None


# ── what both queues share ────────────────────────────────────────────────────────────────────


class _Queue(Generic[EngineT]):
    """Calls and flows of one queue."""

    def __init__(
        self,
        name: str,
        engine: EngineT,
        *,
        serializer: Serializer = JSON,
        schema: Mapping[str, Any] | None = None,
        backoff: Callable[[int], float] = default_backoff,
    ) -> None:
        if not isinstance(serializer, Serializer):
            raise InvalidArgument(f"serializer must be a Serializer, got {serializer!r}")
        self.name = name
        self.engine = engine
        self.serializer = serializer
        self.backoff = backoff
        self.keys: QueueKeys = engine.keys(name)
        self._writer = Writer(name, serializer)
        self._check = _body_check(schema)
        self._call_ids = Ids()

    @cached_property
    def keeper(self) -> LeaseKeeper:
        """What renews the leases of this process."""
        return keeper(self.engine)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.engine.address.safe_url!r})"

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def _outgoing(self, item: Any) -> Outgoing:
        """What `put_many` was given (a body, or an `Item`) as it is published."""
        if not isinstance(item, Item):
            if self._check is not None:
                self._check(item)
            message_id = message_ids.next()
            return Outgoing(self._writer.write(item, message_id), message_id)
        if item.priority != 0:
            check_priority(item.priority)
        if self._check is not None:
            self._check(item.body)
        if item.id is not None and not (isinstance(item.id, str) and 0 < len(item.id) <= 256):
            raise InvalidArgument(f"id must be text of 1 to 256 characters, got {item.id!r:.300}")
        if item.headers is not None and not isinstance(item.headers, Mapping):
            raise InvalidArgument(f"headers must be a mapping, got {type(item.headers).__name__}")
        if item.ttl == 0:
            raise InvalidArgument("ttl must be more than 0 seconds; None is for ever")
        if item.at is not None and item.delay != 0:
            raise InvalidArgument("give a delay or at, not both")
        message_id = item.id if item.id is not None else message_ids.next()
        text = self._writer.write(
            item.body, message_id, priority=item.priority, headers=item.headers
        )
        return Outgoing(
            text,
            message_id,
            step=self.keys.step_of(item.priority) if item.priority != 0 else 1,
            delay_ms=_ms("delay", item.delay) if item.delay != 0 else 0,
            at_ms=_at_ms(item.at),
            ttl_ms=_ms("ttl", item.ttl) if item.ttl is not None else 0,
            dedup=item.id is not None,
        )

    def _put_one(self, message: Outgoing) -> Call[calls.Published]:
        return flows.publish(self.keys, [message], self._call_ids, self.engine.options)

    def _put(self, messages: list[Outgoing]) -> Flow[list[bool]]:
        return flows.publish_all(
            self.keys, messages, ids=self._call_ids, options=self.engine.options
        )

    def _result_key(self, message_id: str) -> str:
        if not isinstance(message_id, str):
            raise InvalidArgument(f"message_id must be text, got {message_id!r}")
        return self.keys.result(message_id)

    # ── what happens to a message ─────────────────────────────────────────────────────────────

    def _ack(self, receipts: Sequence[str]) -> Flow[list[Verdict]]:
        return flows.in_batches(receipts, lambda some: calls.ack(self.keys, some))

    def _release(
        self,
        messages: Sequence[_Message[Any]],
        *,
        delay: float = 0,
        front: bool = False,
        counted: bool = True,
    ) -> Flow[list[Verdict]]:
        items = [(message.receipt, _id_or_none(message) if delay else "") for message in messages]
        delay_ms = _ms("delay", delay)
        return flows.in_batches(
            items,
            lambda some: calls.release(
                self.keys, some, delay_ms=delay_ms, front=front, counted=counted
            ),
        )

    def _extend(self, receipts: Sequence[str], seconds: float | None) -> Flow[list[Verdict]]:
        lease_ms = self.engine.options.lease_ms if seconds is None else _ms("seconds", seconds)
        return flows.in_batches(
            receipts, lambda some: calls.extend(self.keys, some, lease_ms=lease_ms)
        )

    def _reject(
        self, messages: Sequence[_Message[Any]], reason: str, detail: str
    ) -> Flow[list[Verdict]]:
        items = []
        for message in messages:
            message_id = _id_or_none(message)
            failed = {
                "id": message_id,
                "state": "failed",
                "reason": f"{reason}: {detail}".rstrip(": "),
            }
            value = json.dumps(failed) if message_id else ""
            items.append(Rejection(message.receipt, message_id, reason, detail, value))
        ttl_ms = self.engine.options.result_ttl_ms
        return flows.in_batches(items, lambda some: calls.reject(self.keys, some, ttl_ms=ttl_ms))

    def _complete(self, message: _Message[Any], value: Any) -> Flow[list[Verdict]]:
        try:
            done = json.dumps({"id": message.id, "state": "done", "value": value})
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidMessage(f"the result is not JSON: {error}") from error
        items = [(message.receipt, message.id, done)]
        ttl_ms = self.engine.options.result_ttl_ms
        return flows.in_batches(items, lambda some: calls.complete(self.keys, some, ttl_ms=ttl_ms))

    def _fail(self, message: _Message[Any], error: BaseException) -> Flow[list[Verdict]]:
        """After an exception: later again, or to dead letters when that is of no use."""
        if not isinstance(error, Exception):
            return self._release([message], front=True)  # told to stop: not the message's fault
        if message.undecodable:
            return self._reject([message], "undecodable", _words(error))
        most = self.engine.options.max_deliveries
        if most is not None and message.deliveries >= most:
            return self._reject([message], "max_deliveries", _words(error))
        return self._release([message], delay=self.backoff(message.deliveries))

    def _settle(self, message: _Message[Any], verdicts: list[Verdict]) -> Verdict:
        """What a single message's verb answers; raises `LeaseLost`."""
        self.keeper.drop((message.receipt,))
        if verdicts[0] is Verdict.LOST:
            message.lost = True
            raise LeaseLost(
                f"{message.receipt} is not live: somebody else has the message, or it is gone"
            )
        return verdicts[0]

    def _settled(self, messages: Sequence[_Message[Any]], verdicts: list[Verdict]) -> list[Verdict]:
        """The same for many."""
        self.keeper.drop([message.receipt for message in messages])
        for message, verdict in zip(messages, verdicts, strict=True):
            message.lost = message.lost or verdict is Verdict.LOST
        return verdicts

    def _give_back(self, messages: Sequence[_Message[Any]]) -> Flow[list[Verdict]]:
        return flows.give_back(self.keys, [(message.receipt, "") for message in messages])

    # ── what an operator does ─────────────────────────────────────────────────────────────────

    def _peek(self, part: Part, limit: int, offset: int, after: str) -> Call[list[Peeked]]:
        return calls.peek(
            self.keys,
            _parts([part])[0],
            limit=limit,
            offset=offset,
            after=after,
            serializer=self.serializer,
        )

    def _redrive(self, ids: Sequence[str] | None, reason: str) -> Flow[int]:
        if isinstance(ids, str):
            ids = [ids]
        if ids is None:
            return (yield from flows.redrive_all(self.keys, reason=reason))
        total = 0
        for some in flows.batches(ids):
            done: calls.Redriven = yield calls.redrive(self.keys, some, reason=reason)
            total += done.count
        return total

    def _purge(self, parts: Iterable[Part]) -> Call[Counts]:
        chosen = _parts(parts)
        return calls.purge(
            self.keys,
            ready="ready" in chosen,
            delayed="delayed" in chosen,
            unacked="unacked" in chosen,
            dead="dead" in chosen,
        )

    def _delete(self, force: bool) -> Flow[Counts]:
        if not force:
            state: QueueState = yield calls.inspect(self.keys)
            if state.unacked:
                raise QueueInUse(
                    f"{self.name!r} has unacked messages, {state.unacked}: stop its consumers, "
                    "or delete(force=True) and their acks will find nothing"
                )
        gone: Counts = yield calls.purge(
            self.keys, ready=True, delayed=True, unacked=True, dead=True, settings=True
        )
        return gone


def _parts(parts: Iterable[Part]) -> list[Part]:
    given: list[Part] = list(parts) or ["ready", "delayed"]
    for part in given:
        if part not in ("ready", "delayed", "unacked", "dead"):
            raise InvalidArgument(f"there is no part {part!r}: ready, delayed, unacked or dead")
    return given


def _body_check(schema: Mapping[str, Any] | None) -> Callable[[Any], None] | None:
    if schema is None:
        return None
    from jsonschema import SchemaError
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    if not isinstance(schema, Mapping):
        raise InvalidArgument(f"schema must be a mapping, got {type(schema).__name__}")
    schema = dict(schema)
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise InvalidArgument(f"the schema is no JSON Schema: {error.message}") from error
    compiled = kind(schema)

    def check(body: Any) -> None:
        error = best_match(compiled.iter_errors(body))
        if error is not None:
            raise InvalidMessage(
                f"the body does not meet the schema at {error.json_path}: {error.message}"
            )

    return check


def _told(stop: Stop | None) -> bool:
    return stop is not None and stop.is_set()


def _ms(name: str, seconds: float) -> int:
    if (
        not isinstance(seconds, int | float)
        or isinstance(seconds, bool)
        or not 0 <= seconds <= LONGEST
    ):
        raise InvalidArgument(f"{name} must be seconds from 0 to {LONGEST:.0f}, got {seconds!r}")
    return round(seconds * 1000) or int(seconds > 0)


def _at_ms(at: datetime | float | None) -> int:
    if at is None:
        return 0
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise InvalidArgument(f"at must say its time zone: {at!r} does not")
        at = at.timestamp()
    return max(1, _ms("at (as seconds since 1970)", at))


@contextmanager
def _settling(messages: Iterable[_Message[Any]]) -> Iterator[None]:
    """These messages are settled by what follows, unless that fails."""
    for message in messages:
        message.settled = True
    try:
        yield
    except BaseException:
        for message in messages:
            message.settled = False
        raise


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:4000]


def _id_or_none(message: _Message[Any]) -> str:
    """The id of a message, or "" where it cannot be read: it can still be given back then."""
    try:
        return message.id
    except InvalidMessage:
        return ""


def _value(message_id: str, stored: bytes | None, timeout: float | None) -> Any:
    if stored is None:
        raise ResultTimeout(f"no result of {message_id} within {timeout} s")
    result = json.loads(stored)
    if result["state"] == "failed":
        raise MessageFailed(result.get("reason", ""))
    return result["value"]


# ── messages ──────────────────────────────────────────────────────────────────────────────────


class _Message(Generic[QueueT]):
    """A claimed message. Its lease is renewed as long as this object lives and is not settled."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_delivery",
        "_home",
        "_queue",
        "_rides",
        "lost",
        "receipt",
        "settled",
        "undecodable",
    )

    def __init__(self, queue: QueueT, delivery: Delivery) -> None:
        self._queue = queue
        self._delivery = delivery
        self._home = queue.keeper.home
        self._rides = False  # with the claim that follows: its ack need not be sent at once
        self._body: Any = _UNREAD
        self.receipt = delivery.receipt
        self.settled = False
        """It was acked, released, rejected or completed, or is about to be."""
        self.lost = False
        """The lease could not be kept: the message was handed to somebody else."""
        self.undecodable = False
        """Its body was asked for and cannot be decoded."""

    @property
    def body(self) -> Any:
        """What was put. Raises `InvalidMessage` if it cannot be decoded.

        At the end of a `with` block such a message goes to dead letters; otherwise `reject` it.
        """
        if self._body is _UNREAD:
            try:
                self._body = self._delivery.envelope.body(self._queue.serializer)
            except InvalidMessage:
                self.undecodable = True
                raise
        return self._body

    @property
    def id(self) -> str:
        """Its message id."""
        return self._delivery.envelope.id

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers."""
        return self._delivery.envelope.headers

    @property
    def properties(self) -> dict[str, Any]:
        """The properties of its envelope, as Kombu has them."""
        return self._delivery.envelope.properties

    @property
    def deliveries(self) -> int:
        """How often it was handed out, this time included."""
        return self._delivery.deliveries

    @property
    def priority(self) -> int:
        """The priority step it was put with, 0 to 9; 0 goes first."""
        return self._queue.keys.priority_of(self._delivery.step)

    @property
    def raw(self) -> bytes:
        """The envelope as it lies in the server."""
        return self._delivery.envelope.raw

    def _hand_over(self, *, rides: bool) -> Self:
        """It goes to whoever asked for it, who begins to work."""
        self._rides = rides
        self._queue.keeper.start(self.receipt)
        return self

    def _leave(self, error: BaseException | None) -> Flow[list[Verdict]] | None:
        """What is to be done at the end of its block, if anything."""
        keeper = self._queue.keeper
        if self.settled or self._home is not keeper.home:
            return None  # a forked child leaves alone what its parent claimed
        self.settled = True
        if error is not None:
            return self._queue._fail(self, error)
        if self._rides:
            keeper.ack_later(self._queue.keys, self.receipt)
            return None
        return self._queue._ack((self.receipt,))

    def _left(self, verdicts: list[Verdict]) -> None:
        self._queue._settled([self], verdicts)
        if self.lost:
            log.warning("%s: the lease was lost, somebody else has the message", self)

    def _stuck(self, error: BaseException | None, trouble: AtomqError) -> None:
        """What its block ended with could not be said to the server."""
        keeper = self._queue.keeper
        keeper.drop([self.receipt])
        if error is None and isinstance(trouble, ServerUnavailable):
            keeper.acks.send_again(self._queue.name, [self.receipt])
            log.warning("%s is acked as soon as the server is back: %s", self, trouble)
        else:
            log.error("%s comes back when its lease ends: %s", self, trouble)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.receipt} of {self._queue.name!r}>"


_UNREAD = object()


class Message(_Message["Queue"]):
    """A claimed message.

    Use it in a `with` block: at its end the message is acked, and after an exception it is
    released, to be tried again after the queue's backoff. The block raises nothing of its own: an
    ack that cannot be sent is sent as soon as the server is back, one that comes too late is
    logged. Or settle it yourself, once. Each verb raises `LeaseLost` if the receipt is not live,
    and `ServerUnavailable` if the server is gone; the message is then somebody else's when its
    lease ends.
    """

    __slots__ = ()

    def ack(self) -> Verdict:
        """It is done with. DONE, or UNKNOWN after a lost reply."""
        return self._done(self._queue._ack((self.receipt,)))

    def release(self, delay: float = 0, *, front: bool = False, counted: bool = True) -> Verdict:
        """Give it back, now or in `delay` seconds. `counted=False` if the work did not begin."""
        return self._done(self._queue._release((self,), delay=delay, front=front, counted=counted))

    def reject(self, reason: str = "rejected", detail: str = "") -> Verdict:
        """Move it to dead letters. `reason` is a word or two, `detail` helps to find out why."""
        return self._done(self._queue._reject((self,), reason, detail))

    def complete(self, value: Any = None) -> Verdict:
        """Ack it and store its result, which must be JSON; whoever waits for it is told."""
        return self._done(self._queue._complete(self, value))

    def extend(self, seconds: float | None = None) -> None:
        """Hold it for so many seconds from now (default: one lease).

        Rarely needed: leases are renewed in the background. Raises `LeaseLost`.
        """
        verdicts = self._queue.engine.run(self._queue._extend((self.receipt,), seconds))
        if verdicts[0] is not Verdict.DONE:
            self._queue._settle(self, [Verdict.LOST])

    def _done(self, flow: Flow[list[Verdict]]) -> Verdict:
        with _settling((self,)):
            verdicts = self._queue.engine.run(flow)
        return self._queue._settle(self, verdicts)

    def __enter__(self) -> Self:
        self._queue.keeper.start(self.receipt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flow = self._leave(error)
        if flow is not None:
            try:
                self._left(self._queue.engine.run(flow))
            except AtomqError as trouble:
                self._stuck(error, trouble)


class AsyncMessage(_Message["AsyncQueue"]):
    """A claimed message; see `Message`. Used in an `async with` block."""

    __slots__ = ()

    async def ack(self) -> Verdict:
        """See `Message.ack`."""
        return await self._done(self._queue._ack((self.receipt,)))

    async def release(
        self, delay: float = 0, *, front: bool = False, counted: bool = True
    ) -> Verdict:
        """See `Message.release`."""
        return await self._done(
            self._queue._release((self,), delay=delay, front=front, counted=counted)
        )

    async def reject(self, reason: str = "rejected", detail: str = "") -> Verdict:
        """See `Message.reject`."""
        return await self._done(self._queue._reject((self,), reason, detail))

    async def complete(self, value: Any = None) -> Verdict:
        """See `Message.complete`."""
        return await self._done(self._queue._complete(self, value))

    async def extend(self, seconds: float | None = None) -> None:
        """See `Message.extend`."""
        verdicts = await self._queue.engine.run(self._queue._extend((self.receipt,), seconds))
        if verdicts[0] is not Verdict.DONE:
            self._queue._settle(self, [Verdict.LOST])

    async def _done(self, flow: Flow[list[Verdict]]) -> Verdict:
        with _settling((self,)):
            verdicts = await self._queue.engine.run(flow)
        return self._queue._settle(self, verdicts)

    async def __aenter__(self) -> Self:
        self._queue.keeper.start(self.receipt)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flow = self._leave(error)
        if flow is not None:
            try:
                self._left(await self._queue.engine.run(flow))
            except AtomqError as trouble:
                self._stuck(error, trouble)


# ── results ───────────────────────────────────────────────────────────────────────────────────


class Sent(NamedTuple):
    """A message that was put; `wait` for its result."""

    id: str
    queue: Queue
    new: bool = True
    """False if a message of this id had been put within the window: this one was not put again."""

    def wait(self, timeout: float | None = None) -> Any:
        """See `Queue.wait`."""
        return self.queue.wait(self.id, timeout)


class AsyncSent(NamedTuple):
    """A message that was put; see `Sent`."""

    id: str
    queue: AsyncQueue
    new: bool = True

    async def wait(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """See `Queue.wait`."""
        return await self.queue.wait(self.id, timeout)


# ── the queues ────────────────────────────────────────────────────────────────────────────────


class Queue(_Queue[Engine]):
    """A queue. Any number of threads may use it.

    `engine` is an `Engine`, or the URL of a server (with `options`, see `Options`). Bodies are JSON
    unless `serializer` says otherwise; with `schema`, a JSON Schema, `put` refuses bodies that do
    not meet it. `backoff` says for how many seconds a message waits that failed for the nth time.

    Every method raises `ServerUnavailable` when the server cannot be reached within the retries,
    `PermissionDenied` and `ScriptsNotLoaded` when this user may not do it, and `InvalidArgument`
    for arguments out of range. Each is safe to call again.
    """

    def __init__(
        self,
        name: str,
        engine: Engine | str,
        *,
        serializer: Serializer = JSON,
        schema: Mapping[str, Any] | None = None,
        backoff: Callable[[int], float] = default_backoff,
        **options: Any,
    ) -> None:
        owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            engine = Engine(engine, **options)
        elif options:
            raise InvalidArgument("options belong to the engine: give them to Engine(url, ...)")
        elif not isinstance(engine, Engine):
            raise InvalidArgument(f"a Queue needs an Engine or a URL, got {engine!r}")
        super().__init__(name, engine, serializer=serializer, schema=schema, backoff=backoff)
        self._owns_engine = owns_engine

    def close(self) -> None:
        """Close the engine if the queue made it, of a URL; one that was given stays open.

        See `Engine.close`. The end of a `with` block does it too.
        """
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def put(
        self,
        body: Any,
        *,
        delay: float = 0,
        at: datetime | float | None = None,
        priority: int = 0,
        id: str | None = None,  # noqa: A002 - the word everybody uses for it
        headers: Mapping[str, Any] | None = None,
        ttl: float | None = None,
    ) -> Sent:
        """Put one message.

        It is handed out at once, or in `delay` seconds, or `at` a time (aware datetime, or seconds
        since 1970 by the server's clock). `priority` 0 goes first, 9 last. With an `id` of your own
        it is not put again within `dedup_window`. After `ttl` seconds it goes to dead letters
        instead of a consumer. Raises `InvalidMessage` for a body that cannot be serialized or does
        not meet the schema, `ServerFull` at maxmemory.
        """
        message = self._outgoing(Item(body, delay, at, priority, id, headers, ttl))
        done = self.engine.run(self._put_one(message))
        return Sent(message.id, self, not done.known)

    def put_many(self, items: Iterable[Any]) -> list[Sent]:
        """Put many messages; each a body, or an `Item` with settings of its own.

        They travel 1,000 (or `max_bytes`) to a call. A call is all or nothing, the whole is not.
        """
        messages = [self._outgoing(item) for item in items]
        if not messages:
            return []
        put = self.engine.run(self._put(messages))
        return [Sent(m.id, self, new) for m, new in zip(messages, put, strict=True)]

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    def claim(self, timeout: float | None = 0) -> Message | None:
        """One message, or None after `timeout` seconds (None: wait for ever)."""
        found = self.claim_many(1, timeout)
        return found[0]._hand_over(rides=False) if found else None

    def claim_many(self, limit: int, timeout: float | None = 0) -> list[Message]:
        """Up to `limit` messages (at most 1,000). Waits for the first one only."""
        with Receiver([self]) as receiver:
            return receiver.receive(limit, timeout)

    def consume(
        self,
        *,
        prefetch: int | None = None,
        timeout: float | None = None,
        stop: Stop | None = None,
    ) -> Generator[Message]:
        """Messages, one after another; ends when none came for `timeout` seconds (None: never).

        It also ends, within a second, once `stop` is set: an event of `threading`, `asyncio` or
        `multiprocessing`, that a signal handler or another thread sets. The message that is being
        worked on is finished first; a server that does not answer holds it up for as long as a call
        is tried again. `prefetch` messages (default: the option) are claimed at once. What was
        claimed and not handed over when the loop is left is given back at once, as if it had never
        been claimed. A server that goes away is waited for; `ServerUnavailable` is raised if it was
        not there to begin with, or is away when `timeout` has passed.
        """
        limit = self.engine.options.prefetch if prefetch is None else prefetch
        with Receiver([self]) as receiver:
            while not _told(stop) and (
                found := receiver.receive(limit, timeout, patient=True, stop=stop)
            ):
                receiver.waiting = waiting = deque(found)
                del found
                try:
                    while waiting and not _told(stop):
                        message = waiting.popleft()
                        if not message.lost:
                            yield message._hand_over(rides=True)
                        del message
                finally:
                    receiver.return_unstarted(waiting)

    def __iter__(self) -> Generator[Message]:
        return self.consume()

    def work(
        self,
        handler: Callable[[Message], Any],
        *,
        prefetch: int | None = None,
        timeout: float | None = None,
        stop: Stop | None = None,
    ) -> int:
        """Call `handler` with each message; how many it was called with.

        A message is acked when the handler returns; after an exception, which is logged, it is
        released and tried again later. It goes on until none came for `timeout` seconds, or `stop`
        is set; see `consume`.
        """
        count = 0
        # Closed here: an exception that passes keeps this frame, and with it what was claimed.
        with closing(self.consume(prefetch=prefetch, timeout=timeout, stop=stop)) as messages:
            for message in messages:
                count += 1
                try:
                    with message:
                        handler(message)
                except Exception:
                    log.exception("%s: the handler failed", message)
        return count

    def ack_many(self, messages: Sequence[Message]) -> list[Verdict]:
        """Ack messages in one call; a verdict for each, LOST among them."""
        with _settling(messages):
            verdicts = self.engine.run(self._ack([message.receipt for message in messages]))
        return self._settled(messages, verdicts)

    def give_back(self, messages: Iterable[Message]) -> None:
        """Release messages that were not started: to the front, in their order, uncounted."""
        given = list(messages)
        if given:
            with _settling(given):
                verdicts = self.engine.run(self._give_back(given))
            self._settled(given, verdicts)

    # ── results ───────────────────────────────────────────────────────────────────────────────

    def wait(self, message_id: str, timeout: float | None = None) -> Any:
        """The result that a consumer stored with `complete`, as soon as it is there. Does not poll.

        Raises `ResultTimeout` after `timeout` seconds (None: never), and `MessageFailed` if a
        consumer made the message a dead letter: rejected it, or failed at it for the last time.
        What no consumer could say is not heard of: that the message died of its `ttl`, or that its
        workers died `max_deliveries` times, or that it was cancelled or purged. So give it a
        timeout. A server that was there and goes away is waited for.
        """
        flow = flows.await_result(self._result_key(message_id), timeout)
        waiter = self.engine.waiter()
        try:
            return _value(message_id, self.engine.run(flow, waiter), timeout)
        finally:
            waiter.close()

    # ── operate ───────────────────────────────────────────────────────────────────────────────

    def state(self) -> QueueState:
        """The queue in numbers."""
        return self.engine.run(calls.inspect(self.keys))

    def peek(
        self, part: Part = "ready", limit: int = 20, *, offset: int = 0, after: str = ""
    ) -> list[Peeked]:
        """Look at up to `limit` messages without claiming them, in their order.

        `part` is ready, delayed, unacked or dead. `offset` passes some over; dead letters go on
        `after` the `name` of the last one seen instead. Stops behind 1 MiB.
        """
        return self.engine.run(self._peek(part, limit, offset, after))

    def cancel(self, *ids: str) -> list[Verdict]:
        """Throw delayed messages away, by id; a verdict for each."""
        return self.engine.run(flows.in_batches(ids, lambda some: calls.cancel(self.keys, some)))

    def redrive(self, ids: Sequence[str] | None = None, *, reason: str = "") -> int:
        """Dead letters back to ready: these (by the name `peek` gives), or all (of one reason)."""
        return self.engine.run(self._redrive(ids, reason))

    def purge(self, *parts: Part) -> Counts:
        """Throw away what lies in these parts; by default what is ready and delayed."""
        return self.engine.run(self._purge(parts))

    def delete(self, *, force: bool = False) -> Counts:
        """Throw the queue away with all its keys; how many messages were in it. Cannot be undone.

        Raises `QueueInUse` if messages are unacked, unless `force`. What a consumer claims in just
        that moment goes too: the answer counts it, and its ack raises `LeaseLost`. Stored results
        stay until their `result_ttl` is over. Who puts something afterwards begins a new queue.
        """
        return self.engine.run(self._delete(force))

    def pause(self) -> None:
        """Hand out nothing until `resume`."""
        self.engine.run(calls.pause(self.keys))

    def resume(self) -> None:
        """Hand out messages again."""
        self.engine.run(calls.pause(self.keys, paused=False))


class Receiver:
    """One consumer of one or several queues of one engine, for one thread at a time.

    Use it in a `with` block, or close it: it holds connections.
    """

    def __init__(self, queues: Sequence[Queue]) -> None:
        self._by_name = _by_name(queues)
        self._engine = queues[0].engine
        self._keeper = queues[0].keeper
        self._begin()

    def _begin(self) -> None:
        self._home = self._keeper.home
        self._consumer = _consumer(self._by_name.values())
        self._waiter: Waiter | None = None
        self.waiting: deque[Message] = deque()
        """Received, and not begun: what `consume` still has to hand out."""
        _open.add(self)

    def receive(
        self,
        limit: int,
        timeout: float | None = None,
        *,
        patient: bool = False,
        stop: Stop | None = None,
    ) -> list[Message]:
        """Up to `limit` messages; waits for the first `timeout` seconds (None: for ever).

        Waits no more, within a second, once `stop` is set. Raises `ServerUnavailable` if the server
        is gone; with `patient`, a server that was there before is waited for.
        """
        calls.check_limit(limit)
        if self._home is not self._keeper.home:
            self._begin()  # in a forked child
        if self._waiter is None:
            self._waiter = self._engine.waiter()
        messages: list[Message] = []

        def claimed(claim: Claimed) -> None:
            got = [Message(self._by_name[d.queue], d) for d in claim.deliveries]
            _hold(self._keeper, got)
            messages.extend(got)

        flow = self._consumer.receive(limit, timeout, claimed, patient=patient, stop=stop)
        try:
            self._engine.run(flow, self._waiter)
        except BaseException:
            self.return_unstarted(messages)
            raise
        return messages

    def return_unstarted(self, messages: Iterable[Message]) -> None:
        """Give back what was received and nobody began to work on. Never raises."""
        for queue, given in _unstarted(messages, self._keeper):
            try:
                queue.give_back(given)
            except AtomqError as error:
                log.warning("%d messages come back when their leases end: %s", len(given), error)

    def close(self) -> None:
        """Leave. A wake-up that was meant for this consumer goes to another. Never raises."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or self._home is not self._keeper.home:
            return  # in a forked child the connections are the parent's
        try:
            self._engine.run(self._consumer.close(), waiter)
        except AtomqError as error:
            log.warning("left without a word to the server: %s", error)
        finally:
            waiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[Receiver] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    # Afterwards a generator that is still about could not even open a connection.
    for receiver in list(_open):
        receiver.return_unstarted(receiver.waiting)
        receiver.close()


def _by_name(queues: Sequence[QueueT]) -> dict[str, QueueT]:
    """The queues of one consumer. Raises `InvalidArgument` if they cannot be."""
    if not isinstance(queues, Sequence):  # to go over a queue would be to consume it
        raise InvalidArgument(f"a consumer takes a list of queues, got {queues!r}")
    if not queues or any(queue.engine is not queues[0].engine for queue in queues):
        raise InvalidArgument("a consumer has one queue or more, all of one engine")
    found = {queue.name: queue for queue in queues}
    if len(found) < len(queues):
        raise InvalidArgument("a consumer has each queue once")
    return found


def _consumer(queues: Iterable[_Queue[Any]]) -> Consumer:
    first, *_ = given = list(queues)
    return Consumer([queue.keys for queue in given], first.engine.options, first.keeper.acks)


def _by_queue(messages: Iterable[MessageT]) -> list[tuple[Any, list[MessageT]]]:
    found: dict[str, list[MessageT]] = {}
    for message in messages:
        found.setdefault(message._queue.name, []).append(message)
    return [(held[0]._queue, held) for held in found.values()]


def _hold(keeper: LeaseKeeper, messages: Iterable[_Message[Any]]) -> None:
    for queue, held in _by_queue(messages):
        keeper.hold(queue.keys, held)


def _unstarted(
    messages: Iterable[MessageT], keeper: LeaseKeeper
) -> list[tuple[Any, list[MessageT]]]:
    """By queue, what this process has to give back: a forked child has nothing of its parent's."""
    home = keeper.home
    return _by_queue(m for m in messages if m._home is home and not (m.lost or m.settled))


class AsyncQueue(_Queue[AsyncEngine]):
    """A queue, for the tasks of one event loop. Every method is that of `Queue`."""

    def __init__(
        self,
        name: str,
        engine: AsyncEngine | str,
        *,
        serializer: Serializer = JSON,
        schema: Mapping[str, Any] | None = None,
        backoff: Callable[[int], float] = default_backoff,
        **options: Any,
    ) -> None:
        owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            engine = AsyncEngine(engine, **options)
        elif options:
            raise InvalidArgument(
                "options belong to the engine: give them to AsyncEngine(url, ...)"
            )
        elif not isinstance(engine, AsyncEngine):
            raise InvalidArgument(f"an AsyncQueue needs an AsyncEngine or a URL, got {engine!r}")
        super().__init__(name, engine, serializer=serializer, schema=schema, backoff=backoff)
        self._owns_engine = owns_engine

    async def close(self) -> None:
        """See `Queue.close`."""
        if self._owns_engine:
            await self.engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    async def put(
        self,
        body: Any,
        *,
        delay: float = 0,
        at: datetime | float | None = None,
        priority: int = 0,
        id: str | None = None,  # noqa: A002 - the word everybody uses for it
        headers: Mapping[str, Any] | None = None,
        ttl: float | None = None,
    ) -> AsyncSent:
        """See `Queue.put`."""
        message = self._outgoing(Item(body, delay, at, priority, id, headers, ttl))
        done = await self.engine.run(self._put_one(message))
        return AsyncSent(message.id, self, not done.known)

    async def put_many(self, items: Iterable[Any]) -> list[AsyncSent]:
        """See `Queue.put_many`."""
        messages = [self._outgoing(item) for item in items]
        if not messages:
            return []
        put = await self.engine.run(self._put(messages))
        return [AsyncSent(m.id, self, new) for m, new in zip(messages, put, strict=True)]

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    async def claim(self, timeout: float | None = 0) -> AsyncMessage | None:  # noqa: ASYNC109
        """See `Queue.claim`."""
        found = await self.claim_many(1, timeout)
        return found[0]._hand_over(rides=False) if found else None

    async def claim_many(
        self,
        limit: int,
        timeout: float | None = 0,  # noqa: ASYNC109 - it ends the wait, not the call
    ) -> list[AsyncMessage]:
        """See `Queue.claim_many`."""
        async with AsyncReceiver([self]) as receiver:
            return await receiver.receive(limit, timeout)

    async def consume(
        self,
        *,
        prefetch: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
        stop: Stop | None = None,
    ) -> AsyncGenerator[AsyncMessage]:
        """See `Queue.consume`. Left through `contextlib.aclosing`, it gives back at once."""
        limit = self.engine.options.prefetch if prefetch is None else prefetch
        async with AsyncReceiver([self]) as receiver:
            while not _told(stop) and (
                found := await receiver.receive(limit, timeout, patient=True, stop=stop)
            ):
                waiting = deque(found)
                del found
                try:
                    while waiting and not _told(stop):
                        message = waiting.popleft()
                        if not message.lost:
                            yield message._hand_over(rides=True)
                        del message
                finally:
                    await receiver.return_unstarted(waiting)

    def __aiter__(self) -> AsyncGenerator[AsyncMessage]:
        return self.consume()

    async def work(
        self,
        handler: Callable[[AsyncMessage], Any],
        *,
        prefetch: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
        stop: Stop | None = None,
    ) -> int:
        """See `Queue.work`; `handler` is a coroutine function.

        Cancelled, it gives back at once what was not begun, and the message that was.
        """
        count = 0
        async with aclosing(
            self.consume(prefetch=prefetch, timeout=timeout, stop=stop)
        ) as messages:
            async for message in messages:
                count += 1
                try:
                    async with message:
                        await handler(message)
                except Exception:
                    log.exception("%s: the handler failed", message)
        return count

    async def ack_many(self, messages: Sequence[AsyncMessage]) -> list[Verdict]:
        """See `Queue.ack_many`."""
        with _settling(messages):
            verdicts = await self.engine.run(self._ack([message.receipt for message in messages]))
        return self._settled(messages, verdicts)

    async def give_back(self, messages: Iterable[AsyncMessage]) -> None:
        """See `Queue.give_back`."""
        given = list(messages)
        if given:
            with _settling(given):
                verdicts = await self.engine.run(self._give_back(given))
            self._settled(given, verdicts)

    # ── results ───────────────────────────────────────────────────────────────────────────────

    async def wait(
        self,
        message_id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
    ) -> Any:
        """See `Queue.wait`."""
        flow = flows.await_result(self._result_key(message_id), timeout)
        waiter = self.engine.waiter()
        try:
            return _value(message_id, await self.engine.run(flow, waiter), timeout)
        finally:
            await waiter.close()

    # ── operate ───────────────────────────────────────────────────────────────────────────────

    async def state(self) -> QueueState:
        """See `Queue.state`."""
        return await self.engine.run(calls.inspect(self.keys))

    async def peek(
        self, part: Part = "ready", limit: int = 20, *, offset: int = 0, after: str = ""
    ) -> list[Peeked]:
        """See `Queue.peek`."""
        return await self.engine.run(self._peek(part, limit, offset, after))

    async def cancel(self, *ids: str) -> list[Verdict]:
        """See `Queue.cancel`."""
        flow = flows.in_batches(ids, lambda some: calls.cancel(self.keys, some))
        return await self.engine.run(flow)

    async def redrive(self, ids: Sequence[str] | None = None, *, reason: str = "") -> int:
        """See `Queue.redrive`."""
        return await self.engine.run(self._redrive(ids, reason))

    async def purge(self, *parts: Part) -> Counts:
        """See `Queue.purge`."""
        return await self.engine.run(self._purge(parts))

    async def delete(self, *, force: bool = False) -> Counts:
        """See `Queue.delete`."""
        return await self.engine.run(self._delete(force))

    async def pause(self) -> None:
        """See `Queue.pause`."""
        await self.engine.run(calls.pause(self.keys))

    async def resume(self) -> None:
        """See `Queue.resume`."""
        await self.engine.run(calls.pause(self.keys, paused=False))


class AsyncReceiver:
    """One consumer of one or several queues of one engine, for one task at a time."""

    def __init__(self, queues: Sequence[AsyncQueue]) -> None:
        self._by_name = _by_name(queues)
        self._engine = queues[0].engine
        self._keeper = queues[0].keeper
        self._begin()

    def _begin(self) -> None:
        self._home = self._keeper.home
        self._consumer = _consumer(self._by_name.values())
        self._waiter: AsyncWaiter | None = None

    async def receive(
        self,
        limit: int,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the wait, not the call
        *,
        patient: bool = False,
        stop: Stop | None = None,
    ) -> list[AsyncMessage]:
        """See `Receiver.receive`."""
        calls.check_limit(limit)
        if self._home is not self._keeper.home:
            self._begin()  # in a forked child
        if self._waiter is None:
            self._waiter = self._engine.waiter()
        messages: list[AsyncMessage] = []

        def claimed(claim: Claimed) -> None:
            got = [AsyncMessage(self._by_name[d.queue], d) for d in claim.deliveries]
            _hold(self._keeper, got)
            messages.extend(got)

        flow = self._consumer.receive(limit, timeout, claimed, patient=patient, stop=stop)
        try:
            await self._engine.run(flow, self._waiter)
        except BaseException:
            await self.return_unstarted(messages)
            raise
        return messages

    async def return_unstarted(self, messages: Iterable[AsyncMessage]) -> None:
        """See `Receiver.return_unstarted`."""
        for queue, given in _unstarted(messages, self._keeper):
            try:
                await queue.give_back(given)
            except AtomqError as error:
                log.warning("%d messages come back when their leases end: %s", len(given), error)

    async def close(self) -> None:
        """See `Receiver.close`."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or self._home is not self._keeper.home:
            return  # in a forked child the connections are the parent's
        try:
            await self._engine.run(self._consumer.close(), waiter)
        except AtomqError as error:
            log.warning("left without a word to the server: %s", error)
        finally:
            await waiter.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
