"""What `Message` and `AsyncMessage` share: a claimed message, its lease, the end of its block."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from atomq import arguments, tracing
from atomq.arguments import Seconds
from atomq.calls import Verdict
from atomq.delivery import Delivery
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    InvalidMessage,
    LeaseLost,
    MessageFailed,
    ResultTimeout,
    ServerUnavailable,
)
from atomq.flows import Rest
from atomq.message import Envelope

if TYPE_CHECKING:
    from atomq.queue_base import QueueBase

log = logging.getLogger("atomq.queue")

QueueT = TypeVar("QueueT", bound="QueueBase[Any]")
MessageT = TypeVar("MessageT", bound="MessageBase[Any]")
T = TypeVar("T")

_id: Callable[[Envelope], str] = attrgetter("id")
_headers: Callable[[Envelope], dict[str, Any]] = attrgetter("headers")
_properties: Callable[[Envelope], dict[str, Any]] = attrgetter("properties")


def messages_of(given: Any) -> list[Any]:
    """What a verb for many was given: claimed messages. Raises `InvalidArgument`."""
    found = list(given) if isinstance(given, Iterable) else [given]
    if not all(issubclass(kind, MessageBase) for kind in set(map(type, found))):
        wrong = next(each for each in found if not isinstance(each, MessageBase))
        raise InvalidArgument(f"these must be claimed messages: {arguments.shown(wrong)}")
    return found


class settling:  # noqa: N801 - as those of contextlib, which make a generator for each block
    """These messages are settled by what follows, unless that fails."""

    __slots__ = ("_messages",)

    def __init__(self, messages: Collection[MessageBase[Any]]) -> None:
        self._messages = messages

    def __enter__(self) -> None:
        for message in self._messages:
            message.settled = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for message in self._messages:
                message.settled = False


def id_or_none(message: MessageBase[Any]) -> str:
    """The id of a message, or "" where it cannot be read: it can still be given back then."""
    try:
        return message.id
    except InvalidMessage:
        return ""


def shown_id(message: MessageBase[Any]) -> str:
    """The same for a text about it: no handler asked for it, so `undecodable` stays as it is."""
    try:
        return message._delivery.envelope.id
    except InvalidMessage:
        return ""


def result_of(message_id: str, stored: bytes | None, timeout: Seconds | None) -> Any:
    """What a consumer completed a message with. Raises `ResultTimeout` and `MessageFailed`."""
    if stored is None:
        seconds = arguments.timeout(timeout)
        raise ResultTimeout(f"no result of {message_id} within {seconds} s")
    try:
        result = json.loads(stored)
        failed, value = result["state"] == "failed", result.get("value")
    except Exception as error:
        said = arguments.words(error)
        raise InvalidMessage(f"what is stored for {message_id} is no result: {said}") from error
    if failed:
        raise MessageFailed(result.get("reason", ""))
    return value


class MessageBase(Generic[QueueT]):
    """A claimed message. Its lease is renewed as long as this object lives and is not settled."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_delivery",
        "_on_cancelled",
        "_process",
        "_queue",
        "_rides",
        "_then",
        "_watched",
        "cancelled",
        "lost",
        "receipt",
        "settled",
        "undecodable",
    )

    def __init__(self, queue: QueueT, delivery: Delivery) -> None:
        self._queue = queue
        self._delivery = delivery
        self._process = queue.keeper.process
        self._rides = False  # with the claim that follows: its ack need not be sent at once
        self._body: Any = _UNREAD
        self._then: tuple[str, float | None] | None = None
        self.receipt = delivery.receipt
        self.settled = False
        """It was acked, released, rejected or completed, or is about to be."""
        self.lost = False
        """The lease could not be kept: the message may be with another consumer."""
        self.cancelled = False
        """It was cancelled, by an operator: if this work ends without an ack, it is over. Of
        a tracked one that is heard within about a second, of others with the next renewal."""
        self._on_cancelled: Callable[[], object] | None = None
        self.undecodable = False
        """A part of it was asked for and cannot be decoded."""

    @property
    def body(self) -> Any:
        """What was put. Raises `InvalidMessage` if it cannot be decoded.

        At the end of a `with` block such a message goes to dead letters; otherwise `reject` it.
        """
        if self._body is _UNREAD:
            self._body = self._read(lambda envelope: envelope.body(self._queue.serializer))
        return self._body

    @property
    def id(self) -> str:
        """Its message id. Raises `InvalidMessage`, as `body` does."""
        return self._read(_id)

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers. Raises `InvalidMessage`, as `body` does."""
        return self._read(_headers)

    @property
    def properties(self) -> dict[str, Any]:
        """The properties of its envelope, as Kombu has them. Raises `InvalidMessage`."""
        return self._read(_properties)

    def _read(self, part: Callable[[Envelope], T]) -> T:
        try:
            return part(self._delivery.envelope)
        except InvalidMessage:
            self.undecodable = True
            raise

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

    def _hand_over(self, rides: bool) -> Self:
        """Note that its handler begins to work."""
        self._rides = rides
        if rides and tracing.active is not None:
            tracing.active.received(self._queue, (self,))
        keeper = self._queue.keeper
        if keeper.max_lease is not None:
            keeper.start(self.receipt)
        return self

    def _leave(self, error: BaseException | None) -> Rest[list[Verdict]] | None:
        """What is to be done at the end of its block, if anything."""
        keeper = self._queue.keeper
        if self.settled or self._process is not keeper.process:
            return None  # a forked child leaves alone what its parent claimed
        self.settled = True
        if error is not None:
            return Rest(self._queue._fail(self, error))
        if self._rides:
            keeper.ack_later(self._queue.keys, self._delivery.word)
            return None
        return Rest(self._queue._ack((self._delivery.word,)))

    def _verdict(self, verdicts: list[Verdict]) -> Verdict:
        """What a verb of this one message answers; raises `LeaseLost`."""
        if verdicts[0] is Verdict.LOST:
            raise LeaseLost(
                f"{self.receipt} is not live: another consumer has the message, or it is gone"
            )
        return verdicts[0]

    def _left(self, verdicts: list[Verdict]) -> None:
        self._queue._settled([self], verdicts)
        if self.lost:
            text = "%s: the lease was lost, another consumer has the message, or it is gone"
            log.warning(text, self, extra=self.log_extra)

    def _stuck(self, rest: Rest[Any], trouble: AtomqError) -> None:
        """The end of its block could not be sent to the server."""
        if isinstance(trouble, ServerUnavailable):
            verb = "ack" if self._then is None else self._then[0]
            text = "%s: the %s is sent as soon as the server is back: %s"
            log.info(text, self, verb, trouble, extra=self.log_extra)
        else:
            rest.over = True
            text = "%s comes back when its lease ends: %s"
            log.error(text, self, trouble, extra=self.log_extra)

    def _let_go(self, rest: Rest[Any]) -> None:
        """Its block has ended. What is left to be said of it is said once the server is back."""
        keeper = self._queue.keeper
        if rest.over or self._then is None:
            keeper.drop((self.receipt,))
        if not rest.over and self._then is None:
            keeper.acks.send_again(self._queue.name, [self._delivery.word])
        elif not rest.over:
            keeper.settle_later((self,), rest)

    def _failed(self) -> tuple[str, Self, str]:
        """The log's text when its handler failed: what becomes of it."""
        verb, pause = self._then or ("", None)
        if pause is not None:
            then = f"it is tried again in {pause:.1f} s"
        else:
            then = "it goes to dead letters" if verb == "reject" else "it is settled already"
        return "%s: the handler failed, %s", self, then

    @property
    def log_extra(self) -> dict[str, Any]:
        """What a log record about it has besides its text, for handlers that write fields.

        `queue`, `message_id` (None: it cannot be read), `delivery`, `max_deliveries`, and
        `next_try`: seconds until it is tried again, once that is known.
        """
        return {
            "queue": self._queue.name,
            "message_id": shown_id(self) or None,
            "delivery": self.deliveries,
            "max_deliveries": self._queue.engine.options.max_deliveries,
            "next_try": None if self._then is None else self._then[1],
        }

    def __repr__(self) -> str:
        most = self._queue.engine.options.max_deliveries
        delivery = f"delivery {self.deliveries}" + (f" of {most}" if most is not None else "")
        kind, name = type(self).__name__, shown_id(self) or "without an id"
        return f"<{kind} {name} of {self._queue.name!r}, {delivery}, receipt {self.receipt}>"


_UNREAD = object()
