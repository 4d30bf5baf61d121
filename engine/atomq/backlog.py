"""What was claimed at once and is not begun: a consumer hands it out, the keeper gives it back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from atomq import flows
from atomq.flows import Flow, clock
from atomq.keys import QueueKeys
from atomq.lease import Held

if TYPE_CHECKING:
    from atomq.leases import LeaseKeeper

log = logging.getLogger("atomq.leases")

M = TypeVar("M", bound=Any)
PATIENCE = 1.0  # seconds that what was claimed may wait for its turn before it is given back


class Waits(Protocol):
    """What the keeper gives back, so that others have it, when it has waited for too long."""

    @property
    def queue(self) -> QueueKeys:
        """One of the queues it is of, all of one node."""
        ...

    def waits_until(self) -> float:
        """When it is to be given back, by `clock`; inf: there is nothing."""
        ...

    def withdraw(self) -> list[str]:
        """What is given back now, by receipts or names; then `give_back`."""
        ...

    def give_back(self) -> Flow[None]:
        """Give back what was withdrawn."""
        ...


class Backlog:
    """What a consumer claimed at once and has not begun. It hands it out; the keeper gives it back.

    Each message leaves the deque once, taken by the one thread or the other: that decides.
    """

    def __init__(self, keeper: LeaseKeeper, queue: QueueKeys) -> None:
        self.queue = queue
        self._keeper = keeper
        self._batch: tuple[float, deque[Any]] = (0.0, deque())
        self._withdrawn: list[Any] = []
        self._sure = 0.0  # until when the leases of all of them last

    def fill(self, messages: Iterable[Held], since: float) -> None:
        """These wait to be begun, claimed at `since` (see `clock`) or later."""
        self._batch = clock(), deque(messages)
        self._sure = since + self._keeper.lease_ms / 1000
        if len(self._batch[1]) > 1:
            self._keeper.watch(self)

    def next(self) -> Any:
        """The next one to begin with; None: there is none that this process surely holds.

        What remains then is to be given back: this process stood still for longer than a lease.
        """
        waiting = self._batch[1]
        if not waiting:
            return None
        try:
            message = waiting.popleft()
            while message.lost:
                message = waiting.popleft()
        except IndexError:
            return None
        if clock() > self._sure and self._keeper.lapsed(message.receipt):
            waiting.appendleft(message)
            return None
        return message

    def take(self) -> list[Any]:
        """All that waits, in its order, and what the keeper is about to give back.

        That is given back by both then: this process may end before the keeper has done it.
        """
        with self._keeper.lock:
            return self._drawn() + self._withdrawn

    def _drawn(self) -> list[Any]:
        waiting, taken = self._batch[1], []
        while waiting:
            try:
                taken.append(waiting.pop())
            except IndexError:
                break
        return taken[::-1]

    def waits_until(self) -> float:
        """When what waits is to be given back; inf: nothing waits."""
        filled, waiting = self._batch
        return filled + PATIENCE if waiting else inf

    def withdraw(self) -> list[str]:
        """The receipts of all that waits, which is not handed out any more; then `give_back`."""
        with self._keeper.lock:
            self._withdrawn += [message for message in self._drawn() if not message.lost]
            receipts = [message.receipt for message in self._withdrawn]
        if receipts:
            log.info("%d messages of %s waited: given back", len(receipts), self.queue.name)
        return receipts

    def give_back(self) -> Flow[None]:
        """Give back what was withdrawn: to the front, in its order, uncounted."""
        messages = self._withdrawn
        yield from flows.give_back(self.queue, [(message.receipt, "") for message in messages])
        for message in messages:
            message.settled = True
        self._withdrawn = []


class Backlogs:
    """The backlogs of several queues, one behind the other."""

    def __init__(self, keeper: LeaseKeeper, queues: Sequence[QueueKeys]) -> None:
        self._by_name = {queue.name: Backlog(keeper, queue) for queue in queues}
        self._filled: list[Backlog] = []
        self._at = 0

    def fill(self, messages: Iterable[Any], since: float) -> None:
        """These wait to be begun. See `Backlog`, here and below."""
        self._filled, self._at = [], 0
        for queue, held in by_queue(messages):
            self._filled.append(self._by_name[queue.name])
            self._filled[-1].fill(held, since)

    def next(self) -> Any:
        """The next one to begin with; None: there is none that this process surely holds."""
        while self._at < len(self._filled):
            message = self._filled[self._at].next()
            if message is not None:
                return message
            self._at += 1
        return None

    def take(self) -> list[Any]:
        """All that waits, and what the keeper is about to give back."""
        return [message for backlog in self._filled for message in backlog.take()]


def by_queue(messages: Iterable[M]) -> list[tuple[Any, list[M]]]:
    """The messages of each queue, in the order of their first ones."""
    found: dict[str, list[M]] = {}
    for message in messages:
        name = message._queue.name
        if name in found:
            found[name].append(message)
        else:
            found[name] = [message]
    return [(held[0]._queue, held) for held in found.values()]
