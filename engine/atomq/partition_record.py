"""Over which partitions a queue is spread: a record beside the first, copied to all others.

The first client that uses the queue writes it. One that wants more partitions raises their number.
Where the record is lost, it is written again as a copy has it, or a client that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from atomq import calls, flows
from atomq.calls import Call
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, InvalidArgument, ServerUnavailable
from atomq.flows import Flow, ask
from atomq.partitions import COPIES, COPY, PartitionMap

log = logging.getLogger("atomq.queue")

T = TypeVar("T")


class PartitionRecord:
    """The record of one queue, as a client reads and writes it that wants `count` partitions."""

    def __init__(self, name: str, engine: EngineBase, count: int) -> None:
        self._name, self._engine, self._count = name, engine, count
        self._keys = engine.keys(name)
        self._on_shards = engine.address.kind == "cluster"

    def read(self) -> Flow[str]:
        """What is written down; "" if nothing is."""
        return self.ask(calls.partitions(self._keys))

    def agreed(self, known: PartitionMap | None = None) -> Flow[PartitionMap]:
        """What is written down, in which there are as many as this queue was said to have.

        `known` is what this client read before.
        """
        try:
            record = yield from self.ask(calls.partitions(self._keys))
        except ServerUnavailable as error:
            record = ""
            if self._on_shards:
                record = yield from flows.copied_record(self._engine.keys, self._name)
            if record:
                log.info("the partitions of %r are read from a copy: %s", self._name, error)
                return self._checked(PartitionMap.read(self._name, record))
            record = yield from ask(calls.partitions(self._keys))
        while True:
            copies = yield from self._copies(record)
            chosen, raised = self._chosen(self._longest(record, copies, known))
            if chosen.record == record:
                if any(self._is_old(copy, chosen) for copy in copies):
                    yield from self._copy(chosen)
                return chosen
            paused = (yield from self._pause_alike(raised)) if raised else None
            before = record
            record = yield from ask(calls.partitions(self._keys, chosen.record, before))
            if record == chosen.record and raised:  # else another client was first
                log.info("%r has %d partitions now: %s", self._name, len(chosen.names), record)
                yield from self._pause_alike(raised, paused)

    def _chosen(self, record: str) -> tuple[PartitionMap, Sequence[str]]:
        """What the record is to be, and which partitions an older one gets besides.

        Raises `InvalidArgument` if there are more than this queue was said to have, ever.
        """
        slots = self._engine.slots
        how: dict[str, Any] = {"prefix": self._engine.prefix}
        if slots is not None:
            how |= {"shards": slots.primaries, "shard_of": slots.owner}
        if not record:
            return PartitionMap.spread(self._name, self._count, **how), ()
        found = PartitionMap.read(self._name, record)
        count = len(found.names)
        if count < self._count:
            chosen = found.raised(self._count, **how)
            return chosen, chosen.names[count:]
        return self._checked(found), ()

    def _checked(self, found: PartitionMap) -> PartitionMap:
        """One that is in use. Raises `InvalidArgument` if it never had as few as are said."""
        count = len(found.names)
        if count > self._count and self._count not in found.counts:
            raise InvalidArgument(
                f"the queue {self._name!r} has {count} partitions, not {self._count}: their number "
                "can be raised, and is not lowered until the queue is deleted"
            )
        return found

    def _pause_alike(self, names: Sequence[str], known: bool | None = None) -> Flow[bool]:
        """Partitions that come are paused if the queue is, and not otherwise; whether it is.

        A process that was killed while it made them may have left them paused. Nothing is done if
        the queue is as it was `known` to be.
        """
        paused = (yield from ask(calls.inspect(self._keys))).paused
        for name in names if paused != known else ():
            pause = calls.pause(self._engine.keys(name), paused=paused)
            if paused or known is not None:
                yield from ask(pause)
                continue
            try:
                yield from self.ask(pause)
            except ServerUnavailable as error:
                log.info("it is not known whether %r is paused: %s", name, error)
        return paused

    def _copies(self, record: str) -> Flow[list[str]]:
        """The copies that are sought when the first is away, without those of nodes that are too.

        They are written last, so they are those of this record if all are. Without a record they
        are sought on a cluster, where it may be lost alone.
        """
        found: list[str] = []
        if not record:
            if self._on_shards:
                found.append((yield from flows.copied_record(self._engine.keys, self._name)))
            return found
        names = PartitionMap.read(self._name, record).names
        for name in (names[at] for at in COPIES if at < len(names)):
            try:
                copy = yield from self.ask(calls.partitions(self._engine.keys(name)))
            except ServerUnavailable:
                continue
            found.append(copy.removeprefix(COPY))
        return found

    def _longest(self, record: str, copies: Sequence[str], known: PartitionMap | None) -> str:
        """The record, or the longest that goes on where it ends: one that was lost."""
        names = PartitionMap.names_of(self._name, record)
        for other in (*copies, known.record if known is not None else ""):
            others = PartitionMap.names_of(self._name, other)
            if len(others) > len(names) and others[: len(names)] == names:
                record, names = other, others
        return record

    def copy(self, chosen: PartitionMap, name: str) -> Flow[None]:
        """Write the record down beside this partition too.

        For the time when the first is away; and it is what says that this is a partition.
        """
        keys, found, known = self._engine.keys(name), "", None
        try:
            while known != found and self._is_old(found, chosen):
                known, copy = found, calls.partitions(keys, chosen.copy, found, copy=True)
                found = yield from self.ask(copy)
        except AtomqError as error:
            log.info("%r has no copy of the record of its partitions: %s", name, error)

    def _copy(self, chosen: PartitionMap) -> Flow[None]:
        for name in reversed(chosen.names[1:]):
            yield from self.copy(chosen, name)

    def _is_old(self, copy: str, chosen: PartitionMap) -> bool:
        """Whether a copy is older than this record: it was raised since."""
        names = PartitionMap.names_of(self._name, copy.removeprefix(COPY))
        return len(names) < len(chosen.names)

    def ask(self, call: Call[T]) -> Flow[T]:
        """Ask one partition; on a cluster, none waits long for the node of another."""
        call.brief = self._on_shards
        return ask(call)
