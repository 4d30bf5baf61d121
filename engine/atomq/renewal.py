"""Renews the leases of a process, and learns which of its messages were lost or cancelled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

from atomq import calls, flows
from atomq.background import Background
from atomq.calls import Call, Verdict, renewal_ms
from atomq.client import Engine
from atomq.errors import AtomqError
from atomq.flows import clock
from atomq.lease import Lease, log_extra
from atomq.node_threads import NodeThreads, by_place
from atomq.options import Options
from atomq.troubles import Troubles, is_of_all

log = logging.getLogger("atomq.leases")

ASK = 1.0  # seconds between two renewals of what is tracked, which may be cancelled


class Renewal:
    """Extends what is held, by the thread of the leases. It belongs to their keeper.

    `lost` and `cancelled` are called with receipts, when an answer says so of their messages.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        thread: Background,
        lost: Callable[[Iterable[str]], None],
        cancelled: Callable[[Iterable[str]], None],
    ) -> None:
        self.lease_ms = options.lease_ms
        self.renew_ms = renewal_ms(self.lease_ms)
        self._soon = min(0.5, self.renew_ms / 3000)  # seconds until what failed is tried again
        self.max_lease = options.max_lease
        self._engine = engine
        self._thread = thread
        self._lost = lost
        self._cancelled = cancelled

    def begin(self, leases: dict[str, Lease], nodes: NodeThreads) -> None:
        """Begin with these, by receipt; also in a forked child."""
        self._leases = leases
        self._nodes = nodes
        self._troubles = Troubles("leases")
        self._unrenewed: set[str] = set()
        """Queues of a cluster whose node is in trouble."""
        self.stop()

    def stop(self) -> None:
        """Renew no more, until something is held anew."""
        self.renew_at = self.ask_at = self._retry_at = inf

    def renew_in_time(self) -> None:
        """Something is held; the lock is held too."""
        self.renew_at = time.monotonic() + self.renew_ms / 1000
        self._thread.rouse()

    def renew_now(self) -> None:
        """Something is held whose lease is not fresh any more; the lock is held too."""
        self.renew_at = time.monotonic()
        self._thread.rouse()

    def ask_soon(self) -> None:
        """Something tracked is held; the lock is held too."""
        self.ask_at = time.monotonic() + ASK
        self._thread.rouse()

    def due(self) -> float:
        """When the thread is to do something (monotonic)."""
        return min(self.renew_at, self._retry_at, self.ask_at)

    def turn(self, now: float) -> None:
        """Renew what is due."""
        if now >= self.renew_at:
            again = self.renew()
            with self._thread.wake:
                self.renew_at = now + again if self._leases else inf
        elif now >= self._retry_at:
            with self._thread.wake:
                queues, self._unrenewed, self._retry_at = self._unrenewed, set(), inf
            self._extend({q: r for q, r in self.held().items() if q in queues})
        if now >= self.ask_at:
            self._ask()

    def renew(self) -> float:
        """Extend everything held; seconds until the next time."""
        return self._extend(self.held())

    def _ask(self) -> None:
        """Renew what is tracked, so as to hear soon whether it was cancelled."""
        leases = self._leases
        tracked = {
            queue: some
            for queue, receipts in self.held().items()
            if (some := [r for r in receipts if (lease := leases.get(r)) and lease.tracked])
        }
        with self._thread.wake:
            self.ask_at = time.monotonic() + ASK if tracked else inf
        self._extend(tracked)

    def held(self) -> dict[str, list[str]]:
        """The receipts whose leases are to be renewed, by queue."""
        by_queue: dict[str, list[str]] = {}
        now, asked = time.monotonic(), clock()
        for receipt, lease in self._leases.copy().items():
            if lease.holder() is None:
                if asked - lease.since > self.lease_ms / 1000:
                    self._leases.pop(receipt, None)  # its lease has ended
            elif lease.started and self.max_lease and now - lease.started > self.max_lease:
                if (holder := lease.holder()) is not None:
                    text = "%r was worked on for longer than max_lease: no longer held"
                    log.warning(text, holder, extra=log_extra(holder, lease.queue))
                self._leases.pop(receipt, None)
            else:
                by_queue.setdefault(lease.queue, []).append(receipt)
        return by_queue

    def _extend(self, by_queue: dict[str, list[str]]) -> float:
        """Extend these; seconds until the next time. Of a cluster each node has its own thread."""
        pause = self.renew_ms / 1000
        if self._engine.slots is None:
            return self._soon if self._extend_some(by_queue) else pause
        for place, queues in by_place(by_queue, self._engine.place).items():
            some = {queue: by_queue[queue] for queue in queues}
            if self._nodes.do(place, "leases", partial(self._extend_at_node, some)) is None:
                self._retry_soon(queues)
        return pause

    def _extend_at_node(self, by_queue: dict[str, list[str]]) -> None:
        if left := self._extend_some(by_queue):
            self._retry_soon(left)

    def _retry_soon(self, queues: Iterable[str]) -> None:
        with self._thread.wake:
            self._unrenewed.update(queues)
            self._retry_at = min(self._retry_at, time.monotonic() + self._soon)
            if not self._thread.closing:
                self._thread.rouse()

    def _extend_some(self, by_queue: dict[str, list[str]]) -> list[str]:
        """Extend these, of one server; the queues that have to be tried again."""
        left: list[str] = []
        for at, (queue, receipts) in enumerate(by_queue.items()):
            for batch in flows.batches(receipts):
                asked = clock()
                try:
                    verdicts = self._engine.run(self.extending(queue, batch))
                    self._troubles.over(queue)
                except AtomqError as error:
                    text = "%d leases of %s not renewed yet: %s"
                    self._troubles.met(error, queue, text, len(batch), queue)
                    if is_of_all(error, self._engine.slots):
                        return left + list(by_queue)[at:]
                    left.append(queue)
                    break  # the other queues may fare better
                pairs = list(zip(batch, verdicts, strict=True))
                kept = Verdict.DONE, Verdict.CANCELLED
                self._lost([receipt for receipt, v in pairs if v not in kept])
                self._cancelled([receipt for receipt, v in pairs if v is Verdict.CANCELLED])
                for receipt in batch:
                    if renewed := self._leases.get(receipt):
                        renewed.since = asked
        return left

    def extending(
        self, queue: str, receipts: Sequence[str], *, beside: bool = False
    ) -> Call[list[Verdict]]:
        """The call that extends these. `beside`: what was alone is so no more."""
        lease_ms, renew_ms = self.lease_ms, self.renew_ms
        keys = self._engine.keys(queue)
        return calls.extend(keys, receipts, lease_ms=lease_ms, renew_ms=renew_ms, beside=beside)
