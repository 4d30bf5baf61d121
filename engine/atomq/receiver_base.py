"""What `Receiver` and `AsyncReceiver` share: one consumer, and what it has received."""

from __future__ import annotations

import atexit
import logging
import random
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic

from atomq import arguments, calls, flows
from atomq.arguments import Seconds
from atomq.backlog import Backlog, Backlogs, by_queue
from atomq.calls import Claimed
from atomq.client import Engine
from atomq.errors import InvalidArgument, ServerFull, ServerUnavailable
from atomq.flows import Begun, Consumer, Flow, Refused, Stop, clock
from atomq.leases import LeaseKeeper
from atomq.message_base import MessageT, QueueT, messages_of, settling
from atomq.queue_base import QueueBase
from atomq.register import Consuming
from atomq.shared import members

log = logging.getLogger("atomq.queue")

TAKE_IN = 4.0  # seconds for which is waited at most before it is asked for more partitions


class Ending:
    """When several workers end: they are asked to stop, or one raised what is no failure."""

    def __init__(self, stop: Stop | None) -> None:
        self._stop = stop
        self.error: BaseException | None = None

    def is_set(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.error is not None or is_stopped(self._stop)


def is_stopped(stop: Stop | None) -> bool:
    """Whether a consumer is asked to stop. Raises `InvalidArgument` if `stop` is no event."""
    if stop is None:
        return False
    try:
        return stop.is_set()
    except AttributeError:
        shown = arguments.shown(stop)
        raise InvalidArgument(f"stop must be an event, with is_set(), got {shown}") from None


class _Ends:
    """A stop that is set at a time (monotonic) too."""

    def __init__(self, stop: Stop | None, at: float) -> None:
        self._stop = stop
        self._at = at

    def is_set(self) -> bool:
        return time.monotonic() >= self._at or flows.is_set(self._stop)


class ReceiverBase(Generic[QueueT, MessageT]):
    """One consumer of one or several queues of one engine, and what it waits on.

    Of the queues of one server each goes before those behind it, unless it is to be `fair`.
    """

    _message_type: type[MessageT]

    def __init__(self, queues: Sequence[QueueT], workers: int = 1, *, fair: bool = False) -> None:
        self.grown: Callable[[list[str]], Flow[list[QueueT] | None]] | None = None
        """Of a queue whose partitions these are: the queues, if they are others by now."""
        known = isinstance(queues, Sequence)  # to go over a queue would be to consume it
        if not known or not all(isinstance(queue, QueueBase) for queue in queues):
            raise InvalidArgument(
                f"a consumer takes a list of queues, got {arguments.shown(queues)}"
            )
        if not queues or any(queue.engine is not queues[0].engine for queue in queues):
            raise InvalidArgument("a consumer has one queue or more, all of one engine")
        if any(queue.is_partitioned for queue in queues):
            raise InvalidArgument(
                "a receiver takes no queue with partitions: give it those of queue.partitions()"
            )
        if len(queues) > calls.MOST:
            raise InvalidArgument(f"a consumer has at most {calls.MOST} queues, got {len(queues)}")
        self._by_name = {queue.name: queue for queue in queues}
        if len(self._by_name) < len(queues):
            raise InvalidArgument("a consumer has each queue once")
        self._engine = queues[0].engine
        self._keeper: LeaseKeeper = queues[0].keeper
        self._workers = workers
        self._fair = fair
        self._timeout: Seconds | None = None  # the last one that was a timeout
        self._begin()
        if isinstance(self._engine, Engine):  # of an event loop nothing is left at exit
            _open.add(self)

    def _begin(self) -> None:
        self._process = self._keeper.process
        keys = [queue.keys for queue in self._by_name.values()]
        keeper = self._keeper
        self._consumer = Consumer(
            keys, self._engine.options, keeper.acks, keeper.alone, fair=self._fair
        )
        self.backlog: Backlog | Backlogs = (
            Backlog(keeper, keys[0]) if len(keys) == 1 else Backlogs(keeper, keys)
        )
        """What `consume` received and still has to hand out."""
        self.asked = 0.0
        """When the first claim was sent that got any of it, by `clock`."""
        limits = self._engine.options.limits
        self._consuming = Consuming(keys, self._workers, keeper, self._consumer.idle, limits)
        self._waiter: Any = None

    def _ordinary(self, limit: int, timeout: Seconds | None, stop: Stop | None) -> Begun | None:
        """A claim, where nothing else is to be done, as nearly always; None: see `_receive`.

        What `_goes_on` answers is still to be done once it was answered.
        """
        if (
            self._waiter is None
            or self.grown is not None
            or self._process is not self._keeper.process
            or not (timeout is None or timeout is self._timeout)
            or not (type(limit) is int and 1 <= limit <= calls.MOST)
        ):
            return None
        if stop is not None:
            is_stopped(stop)  # raises if it is no event
        self._engine.register.consume(self._consuming)
        return self._consumer.ordinary(limit)

    def _goes_on(
        self,
        messages: list[MessageT],
        begun: Begun,
        got: Claimed | BaseException,
        limit: int,
        timeout: Seconds | None,
        patient: bool,
        stop: Stop | None,
    ) -> Flow[None] | None:
        """What is to be done once such a claim was answered; None: nothing, as nearly always.

        None also for an error that nothing is to be done about: that is the caller's to raise.
        """
        if isinstance(got, BaseException):
            self._consumer.failed(begun, got)
            if not isinstance(got, ServerUnavailable | ServerFull):
                return None
        elif self._consumer.has_got(begun, got) and not self._claimed(messages, got):
            is_fresh = clock() - self._consumer.asked < self._keeper.lease_ms / 1000
            if is_fresh and not self._keeper.alone.beside:
                return None
        first = None if messages else got
        return self._receiving(messages, limit, timeout, patient, stop, first)

    def _receive(
        self,
        messages: list[MessageT],
        limit: int,
        timeout: Seconds | None,
        patient: bool,
        stop: Stop | None,
    ) -> Flow[Any]:
        """The flow that receives. The messages are in that list, whatever becomes of it."""
        calls.check_limit(limit)
        arguments.timeout(timeout)
        self._timeout = timeout
        if stop is not None:
            is_stopped(stop)  # raises if it is no event
        if self._process is not self._keeper.process:
            self._begin()  # in a forked child
        if self._waiter is None:
            self._waiter = self._engine.waiter()
        self._engine.register.consume(self._consuming)
        return self._receiving(messages, limit, timeout, patient, stop)

    def _receiving(
        self,
        messages: list[MessageT],
        limit: int,
        timeout: Seconds | None,
        patient: bool,
        stop: Stop | None,
        first: Claimed | ServerUnavailable | ServerFull | None = None,
    ) -> Flow[None]:
        """`first` is what came of an ordinary claim; or the messages are there already."""
        claimed = partial(self._claimed, messages)
        began, left, again = self._consuming.asked, timeout, False
        while True:
            if messages:
                yield from self._consumer.accompany()
            elif self.grown is None:
                if first is not None:
                    left = flows.seconds_left(flows.deadline_of(timeout, began), None)
                receive = self._consumer.receive(limit, left, claimed, patient, stop, first)
                first = None  # kept in this frame, an error would keep the frame
                yield from receive
            else:
                yield from self._receive_from(
                    self.grown, limit, left, claimed, messages, patient, stop
                )
            if not messages or not self._keeper.lapsed(messages[0].receipt):
                return
            # This process stood still for longer than a lease: others may have these by now.
            for queue, held in by_queue(messages):
                with settling(held):
                    queue._settled(held, (yield from queue._give_back(held)))
            messages.clear()
            left = flows.seconds_left(flows.deadline_of(timeout, began), stop)
            if again:
                lease = self._keeper.lease_ms
                log.warning("claims are answered later than their lease of %d ms ends", lease)
                if left is not None and left <= 0:
                    return
                wait = random.uniform(0.2, 1.0)
                yield from flows.ask(flows.Sleep(wait if left is None else min(wait, left)))
            again = True

    def _receive_from(
        self,
        grown: Callable[[list[str]], Flow[list[QueueT] | None]],
        limit: int,
        timeout: Seconds | None,
        claimed: Callable[[Claimed], Refused],
        messages: list[MessageT],
        patient: bool,
        stop: Stop | None,
    ) -> Flow[None]:
        """Receive from partitions. Meanwhile those that were added are taken in."""
        deadline = flows.deadline_of(timeout)
        while True:
            found = yield from grown(list(self._by_name))
            if found is not None:
                yield from self._consumer.close()
                self._by_name = {queue.name: queue for queue in found}
                self._begin()
                self._engine.register.consume(self._consuming)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            at = self._consumer.until = time.monotonic() + TAKE_IN
            ends = stop if self._consumer.pauses else _Ends(stop, at)
            yield from self._consumer.receive(limit, left, claimed, patient=patient, stop=ends)
            left = flows.seconds_left(deadline, stop)
            if messages or (left is not None and left <= 0):
                return

    def _claimed(self, messages: list[MessageT], claim: Claimed) -> Refused:
        """Hold what a claim got: it is among the messages then, or is to be given back."""
        kind, by_name = self._message_type, self._by_name
        asked = self._consumer.asked
        got = [kind(by_name[delivery.queue], delivery) for delivery in claim.deliveries]
        if not messages:
            self.asked = asked
        if self._keeper.hold(claim, got, asked):
            messages += got
            return ()
        return [(queue.keys, [m.receipt for m in held]) for queue, held in by_queue(got)]

    def _unstarted(self, messages: Iterable[MessageT]) -> list[MessageT]:
        """What this process has to give back: a forked child has none of its parent's."""
        process = self._keeper.process
        given = messages_of(messages)
        return [m for m in given if m._process is process and not (m.lost or m.settled)]

    def _leave(self) -> Any:
        """The waiter, which is to be closed, once; None: there is nothing to leave."""
        waiter, self._waiter = self._waiter, None
        # In a forked child the connections are the parent's.
        return waiter if self._process is self._keeper.process else None


_open: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    # Afterwards a generator that is still about could not even open a connection.
    for receiver in members(_open):
        receiver.return_unstarted(receiver.backlog.take())
        receiver.close()
