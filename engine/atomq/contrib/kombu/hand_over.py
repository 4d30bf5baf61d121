"""What was claimed and waits to be handed over to the channels of one connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import countOf, itemgetter
from typing import TYPE_CHECKING

from atomq import fork
from atomq.delivery import Delivery
from atomq.errors import AtomqError

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel

log = logging.getLogger("atomq.kombu")


Waiting = tuple["Channel", Delivery, int]
"""A message for a channel, and when it was claimed by the server's clock (ms since 1970)."""

_channel_of = itemgetter(0)


class HandOver:
    """Messages in the order in which they were claimed.

    It belongs to one thread, but `let_go` is for any. What it gives back goes to the front of its
    queue, uncounted.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = fork.Lock()  # of what takes out more than the oldest one
        self.waiting: deque[Waiting] = deque()
        """To be read only; the event loop asks at every turn whether it is empty."""

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.waiting)

    def add(self, channel: Channel, deliveries: Sequence[Delivery], now_ms: int) -> None:
        """These were claimed for a channel."""
        self.waiting += [(channel, delivery, now_ms) for delivery in deliveries]

    def count(self, channel: Channel) -> int:
        """How many wait for this channel."""
        return countOf(map(_channel_of, self.waiting), channel)

    def next(self) -> Waiting | None:
        """The oldest one; None: it was let go meanwhile, or this process stood still.

        After a freeze that was longer than a lease others may have these messages by now. They are
        given back.
        """
        try:
            oldest = self.waiting.popleft()
        except IndexError:
            return None
        lapsed = self._broker.keeper.lapsed
        if lapsed(oldest[1].receipt):
            self.waiting.appendleft(oldest)
            self.give_back(lambda _, delivery: lapsed(delivery.receipt))
            return None
        return oldest

    def give_back(self, which: Callable[[Channel, Delivery], bool] = lambda *_: True) -> None:
        """Give back those for which `which` is true. Raises our exceptions."""
        given: list[Waiting] = []
        kept: deque[Waiting] = deque()
        with self._lock:
            for one in self.waiting:
                (given if which(*one[:2]) else kept).append(one)
            self.waiting = kept
        for queue, receipts in _by_queue(given).items():
            self._broker.give_back(self._broker.keys(queue), receipts)

    def let_go(self) -> None:
        """The worker stops: give back what waits here. Never raises."""
        given = []
        with self._lock:
            while self.waiting:
                try:
                    given.append(self.waiting.popleft())
                except IndexError:  # its own thread has just taken it
                    break
        try:
            for queue, receipts in _by_queue(given).items():
                self._broker.give_back(self._broker.keys(queue), receipts)
        except AtomqError as error:
            log.warning("not given back before the lease ends: %s", error)

    def clear(self) -> None:
        """The connection is lost: nothing is given back, what is held stays held."""
        self.waiting.clear()


def _by_queue(given: Sequence[Waiting]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for _, delivery, *_ in given:
        delivery.settled = True
        found.setdefault(delivery.queue, []).append(delivery.receipt)
    return found
