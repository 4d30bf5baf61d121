"""Acks that ride along with the next claim."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from atomq import calls, fork
from atomq.calls import Verdict
from atomq.flows.base import Flow, Sleep, ask
from atomq.keys import QueueKeys


class Acks:
    """Acks that may wait a moment, to ride along with the next claim. Any thread may add.

    What is taken is not forgotten until its call was answered: `put_back` if it was not. Until then
    it is `unanswered`, so `put_back` and `answered` are given the very list that `take` answered.
    `waiting` is called when the first one comes to wait for a queue, `lost` of those that came too
    late.

    There is no lock: Python may run the finalizer of an abandoned consumer at any moment, which
    takes and adds in the midst of what its thread does here. Each step is one operation on a deque,
    a list, a set or a dict, which neither threads nor finalizers divide.
    """

    def __init__(
        self,
        waiting: Callable[[], None] = lambda: None,
        lost: Callable[[str, Sequence[str]], None] = lambda _, __: None,
    ) -> None:
        self._waiting = waiting
        self._lost = lost
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """In a child process: they are the parent's."""
        self._receipts: dict[str, deque[str]] = {}
        self._since: dict[str, float] = {}
        # What was taken: queue, receipts and when (monotonic), by the identity of the receipts.
        self._under_way: dict[int, tuple[str, list[str], float]] = {}
        self._repeated: set[str] = set()

    def add(self, queue: str, receipt: str) -> None:
        """One more."""
        waiting = self._receipts.get(queue)
        if waiting is None:
            waiting = self._of(queue)
        first = not waiting
        waiting.append(receipt)
        if first or len(waiting) == 1:
            self._since[queue] = time.monotonic()
            self._waiting()

    def _of(self, queue: str) -> deque[str]:
        found = self._receipts.get(queue)
        return self._receipts.setdefault(queue, deque()) if found is None else found

    def take(self, queue: str) -> list[str]:
        """At most 1,000 of those that wait, oldest first."""
        waiting = self._receipts.get(queue)
        if not waiting:
            return []
        taken: list[str] = []
        self._under_way[id(taken)] = queue, taken, time.monotonic()
        try:
            while waiting and len(taken) < calls.MOST:
                taken.append(waiting.popleft())
        except IndexError:
            pass  # another thread, or a finalizer, took the last one
        if not taken:
            self._arrived(taken)
        return taken

    def _arrived(self, receipts: Sequence[str]) -> None:
        self._under_way.pop(id(receipts), None)  # a forked child ends what its parent began

    def put_back(self, queue: str, receipts: Sequence[str], *, quietly: bool = False) -> None:
        """These were taken and not answered for: it is not known whether they were carried out.

        `quietly`: the caller sends them again, so `waiting` is not called.
        """
        if receipts:
            self.send_again(queue, receipts, quietly=quietly)
            self._arrived(receipts)

    def send_again(self, queue: str, receipts: Sequence[str], *, quietly: bool = False) -> None:
        """These were sent, and not answered for."""
        if receipts:
            self._repeated.update(receipts)
            self._since[queue] = 0.0
            self._of(queue).extendleft(reversed(receipts))
            if not quietly:
                self._waiting()

    def answered(self, queue: str, receipts: Sequence[str], missing: Sequence[str]) -> None:
        """These were taken and carried out; `missing` of them found nothing."""
        self._under_way.pop(id(receipts), None)  # as `_arrived`
        if self._repeated:
            # Sent before, and maybe carried out then: that they find nothing says nothing.
            missing = [receipt for receipt in missing if receipt not in self._repeated]
            self._repeated.difference_update(receipts)
        if missing:
            self._lost(queue, missing)

    def waits(self, queue: str) -> bool:
        """Whether some wait for this queue."""
        return bool(self._receipts.get(queue))

    def under_way(self, queue: str) -> bool:
        """Whether some are taken and not answered for yet, by another thread maybe."""
        return any(name == queue for name, _, _ in self._under_way.copy().values())

    def unanswered(self, until: float = inf) -> list[tuple[str, list[str]]]:
        """What was taken until then (monotonic) and not answered for: each queue with receipts."""
        batches = self._under_way.copy().values()
        return [(queue, receipts) for queue, receipts, at in batches if at <= until]

    def taken_since(self) -> float:
        """When the oldest was taken that is not answered for (monotonic); inf: there is none."""
        return min([at for _, _, at in self._under_way.copy().values()], default=inf)

    def repeats(self, receipts: Sequence[str]) -> None:
        """These are said again, beside the call that took them: one of the two finds nothing."""
        self._repeated.update(receipts)

    def repeated(self, receipts: Sequence[str]) -> None:
        """They were carried out, whatever becomes of the call that took them."""
        self._arrived(receipts)

    def queues(self) -> list[str]:
        """The queues something waits for."""
        return [queue for queue, waiting in self._receipts.copy().items() if waiting]

    def since(self) -> float:
        """When the one that waits longest came (monotonic); inf: none waits."""
        return min([self._since.get(queue, 0.0) for queue in self.queues()], default=inf)


def flush(queue: QueueKeys, acks: Acks, *, quietly: bool = False) -> Flow[None]:
    """Send the acks that wait for a queue. What is not answered is put back: see `put_back`."""
    while receipts := acks.take(queue.name):
        try:
            verdicts = yield from ask(calls.ack(queue, receipts))
        except BaseException:
            acks.put_back(queue.name, receipts, quietly=quietly)
            raise
        pairs = zip(receipts, verdicts, strict=True)
        missing = [receipt for receipt, verdict in pairs if verdict is Verdict.LOST]
        acks.answered(queue.name, receipts, missing)


def flush_all(queues: Sequence[QueueKeys], acks: Acks) -> Flow[None]:
    """The same of several queues. Waits also for what others are sending now, 0.2 s at most."""
    for queue in queues:
        yield from flush(queue, acks)
    for _ in range(100):
        if not any(acks.under_way(queue.name) for queue in queues):
            return
        yield from ask(Sleep(0.002))


def repeat(queue: QueueKeys, receipts: Sequence[str], acks: Acks) -> Flow[None]:
    """Send once more what a call took along that is not answered yet."""
    acks.repeats(receipts)
    yield from ask(calls.ack(queue, receipts).again())
    acks.repeated(receipts)
