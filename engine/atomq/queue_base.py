"""What `Queue` and `AsyncQueue` share: the calls and flows of one queue.

Nothing here waits for the server: `queue.py` and `queue_aio.py` run what is made here. Times are
seconds here; they become milliseconds in `calls`.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeVar

from atomq import arguments, calls, flows, tracing
from atomq.arguments import Seconds
from atomq.body_schema import body_check
from atomq.calls import (
    Call,
    Counts,
    MessageStatus,
    Outgoing,
    Part,
    Peeked,
    Progress,
    QueueState,
    Rejection,
    Verdict,
)
from atomq.durability import Durability
from atomq.engine_base import EngineBase
from atomq.errors import InvalidArgument
from atomq.flows import Flow, Pace
from atomq.fork import once
from atomq.handlers import check_handler
from atomq.ids import message_ids
from atomq.keys import QueueKeys
from atomq.leases import LeaseKeeper, keeper
from atomq.message import Writer, check_priority
from atomq.message import tracked as mark_tracked
from atomq.message_base import MessageBase, id_or_none
from atomq.serializers import JSON, Serializer, strict_json

log = logging.getLogger("atomq.queue")
_receipt: Callable[[MessageBase[Any]], str] = attrgetter("receipt")

EngineT = TypeVar("EngineT", bound=EngineBase)


def default_backoff(deliveries: int) -> float:
    """Seconds until a failed message is tried again: 1, 2, 4, … 300, give or take a quarter."""
    return min(300.0, 2.0 ** min(deliveries - 1, 9)) * random.uniform(0.75, 1.25)


@dataclass(frozen=True, slots=True)
class Item:
    """One message for `put_many`, where it needs settings of its own."""

    body: Any
    delay: Seconds = 0
    at: datetime | float | None = None
    priority: int = 0
    id: str | None = None
    headers: Mapping[str, Any] | None = None
    ttl: Seconds | None = None
    key: str | None = None
    tracked: bool | None = None


class QueueBase(Generic[EngineT]):
    """Calls and flows of one queue."""

    is_partitioned: ClassVar[bool] = False
    _engine_type: ClassVar[type[Any]]
    _id_suffix = ""  # of the ids that it makes
    _position = 0  # of a partition, in its queue

    def __init__(
        self,
        name: str,
        engine: EngineT | str,
        *,
        serializer: Serializer = JSON,
        schema: Mapping[str, Any] | None = None,
        backoff: Callable[[int], Seconds] = default_backoff,
        durability: str | None = None,
        partitions: int | None = None,
        tracked: bool = False,
        **options: Any,
    ) -> None:
        if partitions is not None and not self.is_partitioned:
            raise InvalidArgument(
                f"{type(self).__name__} has no partitions: derive it from the class that has"
            )
        kind = self._engine_type
        if not isinstance(engine, str | kind):
            own = type(self).__name__
            shown = arguments.shown(engine)
            raise InvalidArgument(f"{own} needs an {kind.__name__} or a URL, got {shown}")
        made: Any = engine
        self._owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            made = kind(engine, **options)
        elif options:
            raise InvalidArgument(
                f"options belong to the engine: give them to {kind.__name__}(url, ...)"
            )
        arguments.expect(
            "serializer", serializer, isinstance(serializer, Serializer), "a Serializer"
        )
        arguments.expect("backoff", backoff, callable(backoff), "a function of the deliveries")
        self.name = name
        self.engine: EngineT = made
        self.serializer = serializer
        self.backoff = backoff
        self.keys: QueueKeys = self.engine.keys(name)
        self._tracked = bool(arguments.flag("tracked", tracked))
        self._durability = self.engine.durability(durability)
        self._writer = Writer(name, serializer, body_check(schema))
        self._idle: deque[Any] = deque(maxlen=64)  # receivers; of more at a time some are forgotten
        self._consuming: Any = None
        """The consumer behind the last claim that waited, as the register has it.

        Kept, it counts there for as long as it holds what it got, though its receiver is gone.
        """

    @once
    def keeper(self) -> LeaseKeeper:
        """What renews the leases of this process."""
        return keeper(self.engine)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.engine.address.safe_url!r})"

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def _outgoing(self, item: Any) -> Outgoing:
        """What `put_many` was given (a body, or an `Item`) as it is published."""
        if not isinstance(item, Item):
            return self._plain(item)
        if item.priority != 0:
            check_priority(item.priority)
        if item.id is not None:
            arguments.text("id", item.id, 256, least=1)
        check_key(item.key)
        if item.headers is not None and not isinstance(item.headers, Mapping):
            raise InvalidArgument(f"headers must be a mapping, got {type(item.headers).__name__}")
        delay_ms = arguments.milliseconds("delay", item.delay) if item.delay != 0 else 0
        ttl_ms = arguments.milliseconds("ttl", item.ttl) if item.ttl is not None else 0
        if item.ttl is not None and ttl_ms <= delay_ms:
            raise InvalidArgument(
                "ttl must be more than 0 seconds, and more than the delay; None is for ever"
            )
        if item.at is not None and delay_ms:
            raise InvalidArgument("give a delay or at, not both")
        message_id = item.id if item.id is not None else message_ids.next() + self._id_suffix
        headers = item.headers
        if tracing.active is not None:
            headers = tracing.active.injected(headers)
        text = self._writer.write(item.body, message_id, priority=item.priority, headers=headers)
        tracked = self._tracked
        if item.tracked is not None:
            tracked = bool(arguments.flag("tracked", item.tracked))
        return Outgoing(
            mark_tracked(text, message_id) if tracked else text,
            message_id,
            step=self.keys.step_of(item.priority) if item.priority != 0 else 1,
            delay_ms=delay_ms,
            at_ms=arguments.moment_ms(item.at) if item.at is not None else 0,
            ttl_ms=ttl_ms,
            dedup=item.id is not None,
            tracked=tracked,
        )

    def _plain(self, body: Any) -> Outgoing:
        """A message without settings of its own."""
        if tracing.active is not None or self._tracked:
            return self._outgoing(Item(body))
        message_id = message_ids.next() + self._id_suffix
        return calls.plain(self._writer.write(body, message_id), message_id)

    def _all_outgoing(
        self, items: Iterable[Any], positions: Sequence[int] | None = None
    ) -> list[Outgoing]:
        """The same for many. An error names the position of its item: of these, or from 0."""
        if isinstance(items, Mapping) or not isinstance(items, Iterable):
            raise InvalidArgument(f"put_many takes messages, got {arguments.shown(items)}")
        found: list[Outgoing] = []
        plain, write = tracing.active is None and not self._tracked, self._writer.write
        next_id, suffix, outgoing = message_ids.next, self._id_suffix, calls.plain
        for item in items:
            try:
                if plain and not isinstance(item, Item):
                    message_id = next_id() + suffix
                    found.append(outgoing(write(item, message_id), message_id))
                else:
                    found.append(self._outgoing(item))
            except InvalidArgument as error:
                at = len(found) if positions is None else positions[len(found)]
                raise type(error)(f"message {at}: {error}") from error
        return found

    def _put(self, messages: list[Outgoing], durability: Durability | None) -> Flow[list[bool]]:
        return flows.publish_all(
            self.keys,
            messages,
            producers=self.engine.producers,
            options=self.engine.options,
            durability=durability,
        )

    def _confirmed_by(self, durability: str | None) -> Durability | None:
        """The durability that a put asks for, or else that of the queue."""
        return self._durability if durability is None else self.engine.durability(durability)

    def _result_key(self, message_id: str) -> str:
        return self.keys.result(arguments.text("message_id", message_id, calls.LONGEST_NAME))

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    def _idle_receiver(self) -> Any:
        """A receiver for a claim that does not wait, if one is about; put it back if all went well.

        It never waited, so it holds no connection, and its claims were all answered, so it has
        nothing to give back: there is nothing to close. To make one costs half as much as a claim.
        """
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _pace(self, prefetch: int | None, workers: int = 1) -> Pace:
        return Pace(self.engine.options.prefetch if prefetch is None else prefetch, workers)

    # ── what happens to a message ─────────────────────────────────────────────────────────────

    def _flush(self) -> Flow[None]:
        """Send the acks that wait."""
        return flows.flush_all([self.keys], self.keeper.acks)

    def _ack(self, receipts: Sequence[str]) -> Flow[list[Verdict]]:
        return flows.in_batches(receipts, partial(calls.ack, self.keys))

    def _release(
        self,
        messages: Sequence[MessageBase[Any]],
        *,
        delay: Seconds = 0,
        front: bool = False,
        counted: bool = True,
    ) -> Flow[list[Verdict]]:
        delay_ms = arguments.milliseconds("delay", delay)
        items = [(m.receipt, id_or_none(m) if delay_ms else "") for m in messages]
        release = partial(calls.release, self.keys, delay_ms=delay_ms, front=front, counted=counted)
        return flows.in_batches(items, release)

    def _extend(self, receipts: Sequence[str], seconds: Seconds | None) -> Flow[list[Verdict]]:
        lease_ms = self.engine.options.lease_ms
        if seconds is not None:
            lease_ms = arguments.milliseconds("seconds", seconds, most=calls.LONGEST_LEASE)
        return flows.in_batches(receipts, partial(calls.extend, self.keys, lease_ms=lease_ms))

    def _reject(
        self, messages: Sequence[MessageBase[Any]], reason: str, detail: str
    ) -> Flow[list[Verdict]]:
        if not isinstance(detail, str):
            raise InvalidArgument(f"detail must be text, got {arguments.shown(detail)}")
        calls.check_reason(reason)
        detail = arguments.readable(detail, 4000)
        items = []
        for message in messages:
            message_id = id_or_none(message)
            value = calls.failed(message_id, reason, detail) if message_id else ""
            items.append(Rejection(message.receipt, message_id, reason, detail, value))
        ttl_ms = self.engine.options.result_ttl_ms
        return flows.in_batches(items, partial(calls.reject, self.keys, ttl_ms=ttl_ms))

    def _complete(self, message: MessageBase[Any], value: Any) -> Flow[list[Verdict]]:
        message_id = message.id
        done = strict_json({"id": message_id, "state": "done", "value": value}, "the result is")
        calls.check_size("the result", done)
        items = [(message._delivery.word, message_id, done)]
        ttl_ms = self.engine.options.result_ttl_ms
        return flows.in_batches(items, partial(calls.complete, self.keys, ttl_ms=ttl_ms))

    def _fail(self, message: MessageBase[Any], error: BaseException) -> Flow[list[Verdict]]:
        """After an exception: later again, or to dead letters when that is of no use."""
        if not isinstance(error, Exception):
            message._then = "release", 0.0
            return self._release([message], front=True)  # asked to stop: not the message's fault
        if message.cancelled:
            message._then = "release", None
            return self._release([message], front=True)  # where it is dropped
        message._then = "reject", None
        if message.undecodable:
            return self._reject([message], "undecodable", arguments.words(error))
        most = self.engine.options.max_deliveries
        failures = message._delivery.charged
        if most is not None and failures >= most:
            return self._reject([message], "max_deliveries", arguments.words(error))
        pause = self._pause_after(failures)
        message._then = "release", pause
        return self._release([message], delay=pause)

    def _pause_after(self, deliveries: int) -> float:
        """What `backoff` answers, or the default where that fails: the message must go."""
        try:
            return arguments.seconds("what backoff returns", self.backoff(deliveries))
        except Exception:
            log.exception("%r: the backoff failed, and the default is taken", self.name)
            return default_backoff(deliveries)

    def _settled(
        self, messages: Sequence[MessageBase[Any]], verdicts: list[Verdict]
    ) -> list[Verdict]:
        """Note what became of messages that a verb settled."""
        self.keeper.drop(map(_receipt, messages))
        if verdicts.count(Verdict.DONE) != len(messages):  # `count` passes over what is the same
            for message, verdict in zip(messages, verdicts, strict=True):
                message.lost = message.lost or verdict is Verdict.LOST
        return verdicts

    def _give_back(self, messages: Sequence[MessageBase[Any]]) -> Flow[list[Verdict]]:
        return flows.give_back(self.keys, [(message.receipt, "") for message in messages])

    # ── what an operator does ─────────────────────────────────────────────────────────────────

    def _await_result(
        self,
        message_id: str,
        timeout: Seconds | None,
        on_progress: Callable[[Progress], object] | None,
    ) -> Flow[bytes | None]:
        look = None
        if on_progress is not None:
            check_handler(
                on_progress, awaited=False, what="on_progress", instead="give a plain one"
            )
            look = flows.follow(self.keys, message_id, on_progress)
        return flows.await_result(self._result_key(message_id), timeout, look)

    # ── operate: a queue with partitions does each of these otherwise ─────────────────────────

    def _state(self) -> Call[QueueState] | Flow[QueueState]:
        return calls.inspect(self.keys)

    def _cancel(self, ids: Sequence[str]) -> Flow[list[Verdict]]:
        return flows.cancel(self.keys, ids)

    def _run_now(self, ids: Sequence[str]) -> Flow[list[Verdict]]:
        return flows.run_now(self.keys, ids)

    def _pause(self, *, paused: bool) -> Call[bool] | Flow[None]:
        return calls.pause(self.keys, paused=paused)

    def _get(self, message_id: str) -> Flow[MessageStatus]:
        register = self.engine.register.keys
        return flows.status(self.keys, register, message_id, self.serializer)

    def _peek(
        self, part: Part, limit: int, offset: int, after: str
    ) -> Call[list[Peeked]] | Flow[list[Peeked]]:
        return calls.peek(
            self.keys,
            _parts([part])[0],
            limit=limit,
            offset=offset,
            after=after,
            serializer=self.serializer,
        )

    def _redrive(self, ids: Sequence[str] | None, reason: str) -> Flow[int]:
        some = names_of_dead(ids)
        if some is None:
            return (yield from flows.redrive_all(self.keys, reason=reason))
        return (yield from flows.redrive(self.keys, some, reason=reason))

    def _purge(self, parts: Sequence[Part]) -> Call[Counts] | Flow[Counts]:
        chosen = _parts(parts)
        return calls.purge(
            self.keys,
            ready="ready" in chosen,
            delayed="delayed" in chosen,
            unacked="unacked" in chosen,
            dead="dead" in chosen,
        )

    def _delete(self, force: bool) -> Call[Counts] | Flow[Counts]:
        return calls.purge(
            self.keys,
            ready=True,
            delayed=True,
            unacked=True,
            dead=True,
            settings=True,
            if_unused=not arguments.flag("force", force),
        )


def check_key(key: object) -> None:
    """Raise `InvalidArgument` for what is no `key` of messages that stay in their order."""
    if key is not None:
        arguments.text("key", key, 256, least=1)


def names_of_dead(ids: Sequence[str] | None) -> Sequence[str] | None:
    """Names of dead letters; None: all. Raises `InvalidArgument` for what is no list of them."""
    if isinstance(ids, str):
        return [ids]
    if not isinstance(ids, Sequence | None):
        raise InvalidArgument(f"ids must be a list, got {arguments.shown(ids)}")
    return ids


def _parts(parts: Iterable[Part]) -> list[Part]:
    given: list[Part] = list(parts) or ["ready", "delayed"]
    for part in given:
        if not isinstance(part, str) or part not in ("ready", "delayed", "unacked", "dead"):
            shown = arguments.shown(part)
            raise InvalidArgument(f"there is no part {shown}: ready, delayed, unacked or dead")
    return given
