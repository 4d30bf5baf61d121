"""What `PartitionedQueue` and `AsyncPartitionedQueue` share: flows over the partitions of a queue.

A partition is an ordinary queue: what holds for a queue holds for each of them, and a message never
leaves its own. What is here chooses one for a message, and asks all of them where the whole queue
is meant. On a cluster a partition whose node is in trouble costs the others nothing.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

from atomq import arguments, calls, flows, merging
from atomq.calls import Counts, Outgoing, Part, Peeked, QueueState, Verdict
from atomq.durability import Durability
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    NotDurable,
    QueueInUse,
    ServerError,
    ServerFull,
    ServerUnavailable,
    UnknownPartition,
)
from atomq.flows import Flow, Sleep, ask
from atomq.keys import QueueKeys
from atomq.message_base import MessageBase
from atomq.partition_record import PartitionRecord
from atomq.partitions import MOST, PartitionMap, letter_mark
from atomq.queue_base import EngineT, Item, QueueBase, check_key, names_of_dead

log = logging.getLogger("atomq.queue")

T = TypeVar("T")
TOGETHER = 128  # messages: calls to one node share reads and writes
ROUTES = 4  # times that a message is put before it is said that its partition is none
READ_AGAIN = 4.0  # seconds after which a consumer looks whether there are more partitions


class Put(NamedTuple):
    """A message that was put."""

    id: str
    queue: Any
    """The partition."""
    new: bool


_put: Callable[[tuple[str, Any, bool]], Put]
_put = partial(tuple.__new__, Put)  # in a quarter of the time of `Put`


class Share(NamedTuple):
    """Messages for one partition; `free`: for another one just as well, in one call."""

    at: int
    part: Any
    items: Sequence[Any]
    positions: Sequence[int]
    messages: list[Outgoing]
    free: bool = False


class PartitionedBase(QueueBase[EngineT]):
    """Calls and flows of one queue of several partitions."""

    is_partitioned: ClassVar[bool] = True
    _partition_type: ClassVar[type[Any]]

    def __init__(self, name: str, engine: EngineT | str, *, partitions: int, **more: Any) -> None:
        self._count = arguments.whole("partitions", partitions, 1, MOST)
        super().__init__(name, engine, **more)
        self._on_shards = self.engine.address.kind == "cluster"
        self._record = PartitionRecord(name, self.engine, self._count)
        self._map = PartitionMap(name, ())
        self._parts: list[Any] = []  # none: the record was not read yet
        self._read_at = 0.0  # when the record was read last (monotonic)
        self._turn = 0  # the partition of what names none
        self._given: list[float] = []  # how many of these each got; a fraction more: their order
        self._joined = 0  # messages, since it is the turn of that one
        self._under_way = 0  # calls of such messages

    # ── the record ────────────────────────────────────────────────────────────────────────────

    def _loaded(self) -> Flow[list[Any]]:
        """The partitions, as they are written down; the first that uses the queue does that."""
        while not (parts := self._parts):
            self._learn((yield from self._record.agreed()))
        return parts

    def _current(self, *names: str) -> Flow[list[Any]]:
        """The same as the record says now; with names of messages, if one is of none known."""
        if self._parts and not (names and all(map(self._map.knows, names))):
            yield from self._read_again()
        return (yield from self._loaded())

    def _current_or_anew(self) -> Flow[list[Any]]:
        """The same for what puts or consumes: where there is no record, it is written."""
        if self._parts:
            yield from self._read_again(anew=True)
        return (yield from self._loaded())

    def _read_again(self, *, anew: bool = False) -> Flow[None]:
        """Learn whether they are others by now. What fails changes nothing. See `_refreshed`."""
        try:
            yield from self._refreshed(anew=anew)
        except AtomqError as error:
            log.debug("the partitions of %r stay as they were known: %s", self.name, error)

    def _refreshed(self, *, anew: bool) -> Flow[None]:
        """Learn what the record says now: another process may have raised their number.

        It is raised here if that could not be done when the first partition was away. Where there
        is no record, it is written `anew`: by what puts or consumes, and not by what only looks.
        """
        self._read_at = time.monotonic()
        record = yield from self._record.read()
        if not (record or anew):
            return
        found = PartitionMap.read(self.name, record) if record else None
        if found is None or len(found.names) < self._count:
            found = yield from self._record.agreed(self._map)
        if found.record != self._map.record or not self._parts:
            self._learn(found)

    def _refused(self, error: UnknownPartition) -> Flow[None]:
        """Something was not put: learn where the partitions are, or enter this one as one of them.

        It has never been put into, and its copy of the record was not written: its node was away,
        or a release wrote the record that writes none.
        """
        yield from self._refreshed(anew=True)
        log.info("%s: %r has %d", error, self.name, len(self._map.names))
        if error.partition in self._map.names:
            yield from self._record.copy(self._map, error.partition)

    def _grown(self, names: list[str]) -> Flow[list[Any] | None]:
        """The partitions, for a consumer that knows these, if they are others by now."""
        if time.monotonic() - self._read_at > READ_AGAIN:
            yield from self._read_again(anew=True)
        parts = self._parts
        return parts if parts and [part.name for part in parts] != names else None

    def _learn(self, found: PartitionMap) -> None:
        known = {part.name: part for part in self._parts}
        self._read_at = time.monotonic()
        parts = [
            known.get(name) or self._partition(name, at, found.mark(at))
            for at, name in enumerate(found.names)
        ]
        count = len(parts)
        least, first = min(self._given, default=0.0), random.randrange(count)
        new = [least + (at - first) % count / count for at in range(count)]
        self._given = [*self._given[:count], *new[len(self._given) :]]
        if self._parts:  # first: a partition that the map knows is one of them
            self._parts = parts
        self._map, self._turn = found, self._turn % count
        self._parts = parts  # last: where there are any, there is the rest

    def _partition(self, name: str, at: int, mark: str) -> Any:
        part = self._partition_type(
            name, self.engine, serializer=self.serializer, backoff=self.backoff
        )
        part._writer, part._durability, part._id_suffix = self._writer, self._durability, mark
        part._tracked, part._position = self._tracked, at
        part.keys = self.engine.partition_keys(name, self.name)
        return part

    def _part(self, at: int) -> Any:
        """The partition that was chosen. Raises `UnknownPartition` if there are fewer by now.

        Another thread or task may learn so at any moment; then it is chosen again: see `_refused`.
        """
        parts = self._parts
        if at >= len(parts):
            raise UnknownPartition(f"{self.name!r} has {len(parts)} partitions now: not put")
        return parts[at]

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def _publish(self, items: Sequence[Any], durability: Durability | None) -> Flow[list[Put]]:
        """Put messages; each may be a body or an `Item`. An error names the position of its item.

        Those with a key or an id of their own go where these say, the others together to one
        partition: to another one if its node cannot be reached, and so surely has not got them.
        """
        yield from self._loaded()
        put: dict[int, Put] = {}
        for route in range(ROUTES):
            try:
                yield from self._put_shares(items, put, durability)
                break
            except UnknownPartition as error:
                if route == ROUTES - 1:
                    raise
                yield from self._refused(error)
        return [put[i] for i in range(len(items))]

    def _put_shares(
        self, items: Sequence[Any], put: dict[int, Put], durability: Durability | None
    ) -> Flow[None]:
        """Put those that are not `put` yet."""
        for share in self._shares(items, [i for i in range(len(items)) if i not in put]):
            try:
                at, new = yield from self._put_share(share, durability)
            except (ServerError, NotDurable) as error:
                error.ids = [*(put[i].id for i in sorted(put)), *error.ids]
                raise
            for i, message, is_new in zip(share.positions, at.messages, new, strict=True):
                put[i] = _put((message.id, at.part, is_new))

    def _shares(self, items: Sequence[Any], positions: Sequence[int]) -> list[Share]:
        fixed: dict[int, list[int]] = {}
        free: list[int] = []
        for i in positions:
            at = None
            if isinstance(items[i], Item):
                try:
                    at = self._named(items[i])
                except InvalidArgument as error:
                    raise type(error)(f"message {i}: {error}") from error
            if at is None:
                free.append(i)
            else:
                fixed.setdefault(at, []).append(i)
        shares = [self._share(at, items, positions) for at, positions in fixed.items()]
        for some in flows.batches(free):
            whole = self._share(self._next_turn(len(some)), items, some)
            first = 0
            for messages in flows.by_size(whole.messages, self.engine.options.max_bytes):
                end = first + len(messages)
                part = whole.items[first:end], whole.positions[first:end]
                shares.append(Share(whole.at, whole.part, *part, list(messages), free=True))
                first = end
        return shares

    def _next_turn(self, count: int = 1) -> int:
        """The partition that so many messages go to: the one that got the fewest of this process.

        What is put at the same time goes to the same one, some messages at least, and always those
        that travel in one call.
        """
        self._joined += count
        given, parts, turn = self._given, self._parts, self._turn
        is_there = turn < min(len(given), len(parts))
        ends = self._joined > TOGETHER and is_there and not self.engine.gathers(parts[turn].keys)
        if ends or not (self._under_way and is_there):
            turn = given.index(min(given))
            self._turn, self._joined = turn, count
        given[turn] += count
        return turn

    def _named(self, item: Any) -> int | None:
        """The partition that an item names by its key or its id; None: none."""
        if not isinstance(item, Item):
            return None
        check_key(item.key)
        if item.id is not None:
            arguments.text("id", item.id, 256, least=1)
        if item.key is not None:
            return self._map.of_key(item.key)
        return None if item.id is None else self._map.of_id(item.id)

    def _share(self, at: int, items: Sequence[Any], positions: Sequence[int]) -> Share:
        part, some = self._part(at), [items[i] for i in positions]
        return Share(at, part, some, positions, part._all_outgoing(some, positions))

    def _put_share(
        self, share: Share, durability: Durability | None
    ) -> Flow[tuple[Share, list[bool]]]:
        if not share.free or not self._on_shards:
            return share, (yield from share.part._put(share.messages, durability))
        yield from self._knock(share.at)
        self._under_way += 1
        try:
            return (yield from self._put_anywhere(share, durability))
        finally:
            self._under_way -= 1

    def _put_routed(self, share: Share, durability: Durability | None) -> Flow[Put]:
        """Put one message; if its partition is none any more, where it belongs now."""
        try:
            share, new = yield from self._put_share(share, durability)
        except UnknownPartition as error:
            yield from self._refused(error)
        else:
            return Put(share.messages[0].id, share.part, new[0])
        return (yield from self._publish(share.items, durability))[0]

    def _put_anywhere(
        self, share: Share, durability: Durability | None
    ) -> Flow[tuple[Share, list[bool]]]:
        """Put it into the first partition that takes it, for as long as a call is tried again."""
        until = time.monotonic() + self.engine.retry.budget
        while True:
            trouble: AtomqError | None = None
            for at in self._at_hand(share.at):
                if at != share.at:
                    part = self._part(at)
                    messages = [part._outgoing(item) for item in share.items]
                    share = share._replace(at=at, part=part, messages=messages)
                try:
                    return share, (yield from self._put_once(share, durability))
                except (ServerFull, ServerUnavailable) as error:
                    if not is_nowhere(error):
                        raise
                    trouble = error
            if trouble is None:
                raise UnknownPartition(f"{self.name!r} has no partitions now: not put")
            tries_again = self.engine.retry.attempts and time.monotonic() < until
            if isinstance(trouble, ServerFull) or not tries_again:
                raise trouble
            yield from ask(Sleep(random.uniform(0.05, 0.3)))

    def _put_once(self, share: Share, durability: Durability | None) -> Flow[list[bool]]:
        engine, keys = self.engine, share.part.keys
        done = yield from flows.publish_briefly(
            keys, share.messages, engine.producers, engine.options, durability
        )
        new = [True] * len(share.messages)
        for i in done.known:
            new[i] = False
        return new

    def _at_hand(self, at: int) -> list[int]:
        """All partitions, beginning with this one; those whose node is in doubt come last."""
        count = len(self._parts)  # it may be smaller than when this one was chosen
        order = [*range(at, count), *range(min(at, count))]
        slots = self.engine.slots
        return sorted(order, key=self._is_doubted) if slots and slots.doubted else order

    def _is_doubted(self, at: int) -> bool:
        slots, parts = self.engine.slots, self._parts
        if slots is None or not slots.doubted or at >= len(parts):
            return False
        return slots.owner(parts[at].keys.slot) in slots.doubted

    def _knock(self, at: int) -> Flow[None]:
        """Have it found out, beside this, whether a node that is in doubt answers again."""
        if self._is_doubted(at):
            try:
                yield from self._record.ask(calls.partitions(self._part(at).keys))
            except AtomqError as error:
                log.debug("not put into partition %d of %r: %s", at, self.name, error)

    # ── consume, settle ───────────────────────────────────────────────────────────────────────

    def _flush(self) -> Flow[None]:
        for part in self._parts:
            yield from part._flush()

    def _by_partition(self, messages: Sequence[MessageBase[Any]]) -> list[tuple[Any, list[int]]]:
        """By queue, the positions of its messages."""
        found: dict[Any, list[int]] = {}
        for i, message in enumerate(messages):
            found.setdefault(message._queue, []).append(i)
        return list(found.items())

    def _with(self, message_id: str, key: str | None) -> Flow[Any]:
        """The partition that has the message of this id, put with this key."""
        arguments.text("message_id", message_id, calls.LONGEST_NAME)
        check_key(key)
        yield from self._current(message_id)
        return self._part(self._map.of_id(message_id) if key is None else self._map.of_key(key))

    # ── what an operator does ─────────────────────────────────────────────────────────────────

    def _over(self, flow_of: Callable[[Any], Flow[T]]) -> Flow[merging.Answers[T]]:
        """Ask all partitions, one after another; what does not answer is named."""
        parts = yield from self._current()
        answers = merging.Answers[T](self.name, [part.name for part in parts])
        for at, part in enumerate(parts):
            try:
                if self._on_shards:  # a flow of several calls would be patient with each
                    yield from self._record.ask(calls.partitions(part.keys))
                answers.found[at] = yield from flow_of(part)
            except ServerUnavailable as error:
                answers.missing[part.name] = error
        return answers

    def _state(self) -> Flow[QueueState]:
        answers = yield from self._over(lambda part: ask(calls.inspect(part.keys)))
        return merging.state_of(answers)

    def _peek(self, part: Part, limit: int, offset: int, after: str) -> Flow[list[Peeked]]:
        calls.check_limit(limit)
        arguments.whole("offset", offset, 0, calls.MOST - limit)
        if not isinstance(after, str):
            raise InvalidArgument(f"after must be text, got {arguments.shown(after)}")
        parts = yield from self._current()
        found: dict[int, list[Peeked]] = {}
        most = limit if part == "dead" else limit + offset
        for at, one in enumerate(parts):
            behind = merging.behind(after, at, self._map.of_letter(after)) if after else ""
            found[at] = yield from self._record.ask(one._peek(part, most, 0, behind))
        return merging.peeked(part, found, limit, 0 if part == "dead" else offset)

    def _get(self, message_id: str) -> Flow[calls.MessageStatus]:
        at = home = yield from self._with(message_id, None)
        found: calls.MessageStatus = yield from home._get(message_id)
        if self._map.marked(message_id) is None:
            for part in self._parts:
                if found.state in ("unknown", "gone") and part is not home:
                    elsewhere = yield from part._get(message_id)
                    at, found = (at, found) if elsewhere.state == "unknown" else (part, elsewhere)
        letter = found.letter and found.letter + letter_mark(at._position)
        return replace(found, letter=letter) if letter else found

    def _cancel(self, ids: Sequence[str]) -> Flow[list[Verdict]]:
        return self._in_turn(ids, flows.cancel)

    def _run_now(self, ids: Sequence[str]) -> Flow[list[Verdict]]:
        return self._in_turn(ids, flows.run_now)

    def _in_turn(
        self,
        ids: Sequence[str],
        verb: Callable[[QueueKeys, Sequence[str]], Flow[list[Verdict]]],
    ) -> Flow[list[Verdict]]:
        verdicts = [Verdict.LOST] * len(ids)
        for each in ids:
            arguments.text("an id", each, calls.LONGEST_NAME)
        parts = yield from self._current(*ids)
        left = list(range(len(ids)))
        homes = [self._map.of_id(each) for each in ids]
        for turn in range(len(parts)):
            # First where it should be; one that was put with a key may be in any of them.
            some: dict[int, list[int]] = {}
            for i in left:
                if turn == 0 or self._map.marked(ids[i]) is None:
                    some.setdefault((homes[i] + turn) % len(parts), []).append(i)
            for at, positions in some.items():
                found = yield from verb(parts[at].keys, [ids[i] for i in positions])
                for i, verdict in zip(positions, found, strict=True):
                    verdicts[i] = verdict
            left = [i for i in left if verdicts[i] is not Verdict.DONE]
        return verdicts

    def _redrive(self, ids: Sequence[str] | None, reason: str) -> Flow[int]:
        ids = names_of_dead(ids)
        if ids is None:
            answers = yield from self._over(lambda part: part._redrive(None, reason))
            return sum(answers.all("put back"))
        calls.check_names("ids", ids, least=0)
        yield from self._current(*ids)
        by_part: dict[int, list[str]] = {}
        for name in ids:
            by_part.setdefault(self._map.of_letter(name) or 0, []).append(name.partition("#")[0])
        total = 0
        for at, names in by_part.items():
            total += yield from self._part(at)._redrive(names, reason)
        return total

    def _purge(self, parts: Sequence[Part]) -> Flow[Counts]:
        answers = yield from self._over(lambda part: ask(part._purge(parts)))
        return merging.counts(answers.all("purged"))

    def _pause(self, *, paused: bool) -> Flow[None]:
        answers = yield from self._over(lambda part: ask(calls.pause(part.keys, paused=paused)))
        answers.all("paused" if paused else "resumed")

    def _delete(self, force: bool) -> Flow[Counts]:
        if not arguments.flag("force", force):
            state = yield from self._state()
            if state.unanswered:
                raise ServerUnavailable(f"not deleted: {', '.join(state.unanswered)} are away")
            if state.unacked:
                raise QueueInUse(
                    f"{state.unacked} messages of {self.name!r} are unacked: stop its consumers, "
                    "or delete(force=True) and their acks will find nothing"
                )
        parts = yield from self._current()
        found: list[Counts] = []
        for part in reversed(parts):  # the record goes last
            found += [(yield from ask(part._delete(force)))]
        self._parts = []
        return merging.counts(found)


def is_nowhere(error: ServerFull | ServerUnavailable) -> bool:
    """Whether what raised this was surely not put."""
    return isinstance(error, ServerFull) or error.unsent
