"""One queue over several partitions: `AsyncPartitionedQueue`.

`partitioned.py` is made from this file: edit this, `make format` does the rest.
`partitioned_base.py` has what has no need to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from atomq import tracing
from atomq.aio import AsyncEngine
from atomq.arguments import Seconds
from atomq.calls import Progress, Verdict
from atomq.errors import InvalidArgument, ServerFull, ServerUnavailable, UnknownPartition
from atomq.message_base import messages_of
from atomq.partitioned_base import PartitionedBase, Put, Share, is_nowhere
from atomq.queue_aio import AsyncMessage, AsyncQueue, AsyncReceiver, AsyncSent
from atomq.queue_base import Item

_sent_as = partial(tuple.__new__, AsyncSent)  # as in `queue_aio.py`


class AsyncPartitionedQueue(PartitionedBase[AsyncEngine], AsyncQueue):
    """A queue of several partitions: `AsyncQueue(name, engine, partitions=12)`.

    On a cluster they lie evenly on its shards, so it holds more than one server can and is worked
    on by all of them. Each is an ordinary queue; the first has the name of the whole. How many
    there are is written down when the queue is first used. Used with a higher number, it has so
    many from then on; processes with the number of before go on, and consume from the new ones
    within some seconds. `InvalidArgument` is raised where it is used with a lower one that it never
    had: to lower it, delete the queue.

    A message that names nothing goes to the partition that got the fewest of this process, and
    while a shard is away to the others. What several tasks put in one turn of the event loop goes
    to one partition together. Those of one `key` stay together: they are handed out in their order,
    as far as a queue keeps one. So does an `id` of its own. While the shard of such a message is
    away, `ServerUnavailable` is raised, as it is of a queue. Messages of different partitions have
    no order, and a priority goes before others in its partition only.

    What asks all partitions raises `ServerUnavailable` behind the last one if some did not answer,
    and names them; `state` says in `unanswered` which they are.

    All that looks at a queue, or operates it, is inherited, and asks all partitions: `peek` gives
    them in one order, of the ready ones the first of each partition first, and takes a `limit` and
    an `offset` of 1,000 together at most. `get` of a message with a key and an id of its own, which
    may be in any partition, asks them in turn. `delete` is one step a partition, so stop those that
    put before: what is put meanwhile may be thrown away or not. How many partitions the queue has
    is forgotten with the last one.
    """

    _partition_type = AsyncQueue

    async def partitions(self) -> list[AsyncQueue]:
        """The partitions, as queues of their own: to look at one, or for a receiver."""
        return list(await self.engine.run(self._current_or_anew()))

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    async def put(
        self,
        body: Any,
        *,
        delay: Seconds = 0,
        at: datetime | float | None = None,
        priority: int = 0,
        id: str | None = None,  # noqa: A002 - the usual word for it
        headers: Mapping[str, Any] | None = None,
        ttl: Seconds | None = None,
        durability: str | None = None,
        key: str | None = None,
        tracked: bool | None = None,
    ) -> AsyncSent:
        """Put one message: all is as in `AsyncQueue.put`, but where it goes.

        With a `key` it goes to the partition of all messages of that key, else with an `id` to that
        of the id, else to any. With both, `wait` needs both.
        """
        item: Any = body
        nothing_said = at is None and id is None and headers is None and ttl is None and key is None
        is_plain = nothing_said and delay == 0 and priority == 0 and tracked is None
        if not is_plain or isinstance(body, Item):
            item = Item(body, delay, at, priority, id, headers, ttl, key, tracked)
        if tracing.active is None:
            return await self._put_one(item, durability)
        with tracing.active.sending(self) as sent:
            found = await self._put_one(item, durability)
            sent(found.id)
        return found

    async def _put_one(self, item: Any, durability: str | None) -> AsyncSent:
        """Put a body or an `Item`; in asyncio in one call with what other tasks put just then."""
        confirmed_by = self._confirmed_by(durability)
        if not self._parts:
            await self.engine.run(self._loaded())
        named = self._named(item) if isinstance(item, Item) else None
        is_free = named is None
        at = self._next_turn() if named is None else named
        if is_free and self._is_doubted(at):
            await self.engine.run(self._knock(at))
            at = next(iter(self._at_hand(at)), at)
        try:
            part = self._part(at)
        except UnknownPartition:
            return AsyncSent(*(await self.engine.run(self._publish([item], confirmed_by)))[0])
        message = part._outgoing(item)
        if confirmed_by is None:
            brief = is_free and self._on_shards
            self._under_way += is_free
            try:
                new = await self.engine.publish(part.keys, message, brief=brief)
            except (ServerFull, ServerUnavailable) as error:
                if not (brief and is_nowhere(error)):
                    raise
            except UnknownPartition as error:
                await self.engine.run(self._refused(error))
                return AsyncSent(*(await self.engine.run(self._publish([item], None)))[0])
            else:
                return _sent_as((message.id, part, new))
            finally:
                self._under_way -= is_free
        share = Share(at, part, [item], (0,), [message], is_free)
        return AsyncSent(*await self.engine.run(self._put_routed(share, confirmed_by)))

    async def put_many(
        self, items: Iterable[Any], *, durability: str | None = None
    ) -> list[AsyncSent]:
        """Put many messages: all is as in `AsyncQueue.put_many`, but where they go.

        Those that name neither a key nor an id stay together, 1,000 (or `max_bytes`) in a
        partition; each call is for one.
        """
        if isinstance(items, Mapping) or not isinstance(items, Iterable):
            raise InvalidArgument("put_many takes messages: a list of bodies, or of Items")
        given = [*items]
        if not given:
            return []
        flow = self._publish(given, self._confirmed_by(durability))
        if tracing.active is None:
            return _sent(await self.engine.run(flow))
        with tracing.active.sending(self, len(given)):
            return _sent(await self.engine.run(flow))

    # ── consume, settle ───────────────────────────────────────────────────────────────────────

    async def _receiver(self, workers: int = 1) -> AsyncReceiver:
        await self.engine.find_namespace()
        receiver = AsyncReceiver(await self.engine.run(self._loaded()), workers, fair=True)
        receiver.grown = self._grown
        return receiver

    async def ack_many(self, messages: Sequence[AsyncMessage]) -> list[Verdict]:
        """Ack messages, in one call a partition; a verdict for each, LOST among them."""
        messages = messages_of(messages)
        verdicts = [Verdict.LOST] * len(messages)
        for queue, positions in self._by_partition(messages):
            found = await AsyncQueue.ack_many(queue, [messages[i] for i in positions])
            for i, verdict in zip(positions, found, strict=True):
                verdicts[i] = verdict
        return verdicts

    async def give_back(self, messages: Iterable[AsyncMessage]) -> None:
        """Release messages that were not started: to the front, in their order, uncounted."""
        given = messages_of(messages)
        for queue, positions in self._by_partition(given):
            await AsyncQueue.give_back(queue, [given[i] for i in positions])

    async def wait(
        self,
        message_id: str,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        key: str | None = None,
    ) -> Any:
        """The result that a consumer stored, as soon as it is there: as in `AsyncQueue.wait`.

        `key` is that of the message, if it was put with a key and an id of its own.
        """
        queue = await self.engine.run(self._with(message_id, key))
        return await queue.wait(message_id, timeout, on_progress=on_progress)


def _sent(found: Sequence[Put]) -> list[AsyncSent]:
    return [_sent_as(each) for each in found]
