"""When a waiting consumer looks by itself whether there is something to claim. Without I/O.

A token may die with the consumer that took it, and no token says that a lease has ended. So each
queue is looked at once a second as long as a consumer waits for it; by one of them. A look that
finds nothing is announced on the queue's channel. A consumer that hears of it puts off its own look
until shortly before the second is over; the one that looked last looks again before that. So it
goes on looking, and the others only listen. When it dies, or has work to do, the first of the
others whose time comes takes its place. Those of one process need not hear of a look: a mark in the
keys of the queue says that one of them has begun it. So however busy the process, one looks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

# Parts of the longest time between two looks. Between them lies what a look takes.
AGAIN = (0.84, 0.88)
"""After which the consumer that looked last looks again."""
INSTEAD = (0.94, 0.98)
"""After which another one looks. They are spread, so that one does."""
NEAR = 0.05  # of the same: what is to be looked at so soon is looked at now


class Looked(NamedTuple):
    """It was heard that a consumer has looked, and found nothing to do."""

    channel: str
    consumer: str


class Looks:
    """When to look at which of some queues, by any clock that counts seconds.

    `cap` is the longest time between two looks, `name` that of this consumer. It belongs to one
    thread or task.
    """

    def __init__(self, cap: float, name: str) -> None:
        self._cap = cap
        self._name = name
        self._at: dict[str, float] = {}
        self.next_at = inf
        """When to look; inf: it knows no queue."""

    def claimed(self, queues: Iterable[str], now: float) -> None:
        """It claimed these at `now`, and so has looked; only those that it knows are looked at."""
        later = False
        for queue in queues:
            if self._at.get(queue, now) <= now:
                self._at[queue] = now + self._cap * random.uniform(*INSTEAD)
                later = True
        if later:  # once in a second
            self._reckon()

    def looked(self, queues: Iterable[str], now: float) -> None:
        """It looked at these at `now`, and found nothing to do."""
        at = now + self._cap * random.uniform(*AGAIN)
        self._at.update(dict.fromkeys(queues, at))
        self._reckon()

    def heard(self, queue: str, consumer: str, now: float) -> None:
        """It heard at `now` that this consumer has looked."""
        if consumer != self._name and queue in self._at:
            self._at[queue] = now + self._cap * random.uniform(*INSTEAD)
            self._reckon()

    def forget(self, queue: str) -> None:
        """Look at it no more."""
        self._at.pop(queue, None)
        self._reckon()

    def _reckon(self) -> None:
        self.next_at = min(self._at.values(), default=inf)

    def knows(self, queue: str) -> bool:
        """Whether it is looked at when it is time."""
        return queue in self._at

    def next_of(self, queues: Iterable[str]) -> float:
        """When to look at one of these; inf: it knows none of them."""
        return min((self._at.get(queue, inf) for queue in queues), default=inf)

    def due(self, now: float) -> list[str]:
        """Which to look at now."""
        soon = now + self._cap * NEAR
        return [queue for queue, at in self._at.items() if at <= soon]
