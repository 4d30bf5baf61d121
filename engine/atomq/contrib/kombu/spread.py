"""Queues over several partitions, as the transport option `partitions` names them.

To Kombu such a queue is one, with one name. To the server each partition is a queue, and a delivery
has its name: so claims, acks and dead letters need no word of it. What is here translates between
the two, and says which partition a message goes to.

Which partitions there are is written down as the library does it: `Queue("orders", partitions=12)`
is the same queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from atomq.calls import Call, Published
from atomq.client import Engine
from atomq.errors import (
    AtomqError,
    InvalidArgument,
    ServerFull,
    ServerUnavailable,
    UnknownPartition,
)
from atomq.flows import Flow, ask
from atomq.keys import QueueKeys
from atomq.node_threads import NodeThreads
from atomq.partitioned_base import READ_AGAIN, ROUTES, PartitionedBase
from atomq.partitions import PartitionMap
from atomq.queue_base import QueueBase, check_key

log = logging.getLogger("atomq.kombu")

PARTITION_KEY = "partition_key"  # a header, which Celery copies into each retry
BEGINNING = 1.0  # seconds, at most, that a consumer which begins waits for a node


class _Part(QueueBase[Engine]):
    """A partition."""

    _engine_type = Engine


class SpreadQueue(PartitionedBase[Engine]):
    """One queue over several partitions."""

    _engine_type = Engine
    _partition_type = _Part

    def __init__(self, name: str, engine: Engine, count: int, wholes: dict[str, str]) -> None:
        """It enters its partitions into `wholes`, with its own name."""
        super().__init__(name, engine, partitions=count)
        self.count = count
        """How many it is said to have here."""
        self.is_found = False
        """Whether it was not said here that it has any."""
        self.fault: AtomqError | None = None
        """Why the partitions could not be read last."""
        self._wholes = wholes

    def _learn(self, found: PartitionMap) -> None:
        super()._learn(found)
        self._wholes.update(dict.fromkeys(self.names, self.name))

    @property
    def names(self) -> tuple[str, ...]:
        """The partitions that are known; at first the queue's own name, which is the first one."""
        return self._map.names

    @property
    def is_known(self) -> bool:
        """Whether it was read which they are."""
        return bool(self._parts)

    @property
    def is_old(self) -> bool:
        """Whether it is time to look if another process has raised their number."""
        return time.monotonic() - self._read_at > READ_AGAIN

    def _refreshed(self, *, anew: bool) -> Flow[None]:
        if not self.is_found:
            yield from super()._refreshed(anew=anew)
            return
        self._read_at = time.monotonic()  # what others said is followed, and not written
        record = yield from self._record.read()
        self._learn(PartitionMap.read(self.name, record or "1"))

    def learn(self) -> Flow[None]:
        """Read which they are, again if they were read."""
        yield from self._current_or_anew()

    def home(self, key: str | None) -> Flow[int]:
        """The partition of this key; without one, that of the next turn whose node is well."""
        yield from self._loaded()
        if key is not None:
            return self._map.of_key(key)
        at = self._next_turn()
        return next(iter(self._at_hand(at)), at)

    def keys_at(self, at: int) -> QueueKeys:
        """The keys of a partition. Raises `UnknownPartition` if there are fewer by now."""
        keys: QueueKeys = self._part(at).keys
        return keys

    def put(
        self, call_for: Callable[[QueueKeys], Call[Published]], key: str | None, at: str = ""
    ) -> Flow[None]:
        """Publish to the partition of the key, or else to the first that can be reached.

        A publish that got no answer is tried again on its own partition, which is `at`, and on no
        other.
        """
        for route in range(ROUTES):
            try:
                if at:
                    yield from ask(call_for(self.engine.partition_keys(at, self.name)))
                else:
                    yield from self._put_now(call_for, key)
                return
            except UnknownPartition as error:
                if route == ROUTES - 1:
                    raise
                yield from self._refused(error)
                at = ""  # where it is not

    def _put_now(
        self, call_for: Callable[[QueueKeys], Call[Published]], key: str | None
    ) -> Flow[None]:
        at = yield from self.home(key)
        if key is not None or not self._on_shards:
            yield from ask(call_for(self.keys_at(at)))
            return
        yield from self._knock(at)
        for each in self._at_hand(at):
            call = call_for(self.keys_at(each))
            call.brief = call.durability is None
            try:
                yield from ask(call)
            except ServerFull as error:
                log.info("not put into %r: %s", call.queue.name, error)
            except ServerUnavailable as error:
                if not error.unsent:
                    yield from ask(call.again())
                    return
            else:
                return
        yield from ask(call_for(self.keys_at(at)))  # which is patient

    def forget(self) -> None:
        """Know of no partitions any more."""
        self._parts = []


class Spread:
    """Those of one server. A queue that is not among them is its own only partition."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queues: dict[str, SpreadQueue] = {}
        self._wholes: dict[str, str] = {}
        self._threads = NodeThreads()

    def declare(self, partitions: Mapping[str, int]) -> None:
        """These queues have so many partitions. The highest number that was said counts."""
        for name, count in partitions.items():
            known = self._queues.get(name)
            if known is None or known.count < count:
                self._queues[name] = SpreadQueue(name, self._engine, count, self._wholes)

    def found(self, queue: str, record: str) -> None:
        """The server has this record of a queue that is consumed here: it has partitions.

        It counts where no number was said. Raises `ServerError` if it is damaged.
        """
        count = len(PartitionMap.names_of(queue, record))
        if count > 1 and queue not in self._queues:
            log.info("%r has %d partitions, and all of them are consumed", queue, count)
            self.declare({queue: count})
            self._queues[queue].is_found = True

    def forget(self, queue: str) -> None:
        """It is deleted: which partitions it has is read, or written, anew."""
        if (found := self.get(queue)) is not None:
            found.forget()
            if found.is_found:
                del self._queues[queue]

    def get(self, queue: str) -> SpreadQueue | None:
        """The queue, if it has partitions."""
        return self._queues.get(queue) if self._queues else None

    def names(self, queue: str) -> tuple[str, ...]:
        """The partitions of a queue that are known; itself, if it has none."""
        found = self.get(queue)
        return (queue,) if found is None else found.names

    def all_names(self, queue: str) -> tuple[str, ...]:
        """The partitions of a queue; they are read first, if it is time. Raises our errors."""
        found = self.get(queue)
        if found is not None and (not found.is_known or found.is_old):
            self._engine.run(found.learn())
        return self.names(queue)

    def whole(self, name: str) -> str:
        """The queue that a partition belongs to; itself, if it belongs to none."""
        return self._wholes.get(name, name)

    def begin(self, queue: str) -> None:
        """A consumer comes: learn which partitions its queue has.

        On a cluster only that is raised which no node is the cause of; a second later the consumer
        begins with the first partition.
        """
        self.look(queue, wait=BEGINNING)
        found = self.get(queue)
        if found is None or found.fault is None:
            return
        if self._engine.slots is None or isinstance(found.fault, InvalidArgument):
            raise found.fault

    def look(self, queue: str, *, wait: float = 0.0) -> None:
        """Learn which partitions a queue has, if it is time. Never raises.

        On a cluster a thread does, which is waited for that long.
        """
        found = self.get(queue)
        if found is None or not found.is_old:
            return
        if self._engine.slots is None:
            self._learn(found)
            return
        place = self._engine.slots.owner(found.keys.slot)
        done = self._threads.do(place, f"partitions {queue}", lambda: self._learn(found))
        if done is not None and wait:
            done.wait(wait)

    def _learn(self, queue: SpreadQueue) -> None:
        try:
            self._engine.run(queue.learn())
            queue.fault = None
        except AtomqError as error:
            queue.fault = error
            log.warning("the partitions of %r are not known yet: %s", queue.name, error)


def key_of(message: Mapping[str, Any]) -> str | None:
    """The partition key of a message. Raises `InvalidArgument` if that can be none."""
    key = (message.get("headers") or {}).get(PARTITION_KEY)
    check_key(key)
    return None if key is None else str(key)
