"""Whether a message that this process holds is alone, and what may be claimed beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from atomq import calls
from atomq.calls import Call, Claimed
from atomq.lease import Lease

DRAIN = 1.0  # seconds, at least, for which nothing is claimed, to come to hold nothing


class Alone:
    """What a process holds, as far as it decides what is claimed beside it: see `flows.Company`.

    `leases` are those that are renewed, by receipt. `accompany` makes the call that says to the
    server that the message of a queue, by its receipt, is alone no more; None: it says so itself.
    """

    def __init__(
        self,
        leases: dict[str, Lease],
        accompany: Callable[[str, str], Call[Any] | None],
    ) -> None:
        self._leases = leases
        self._accompany = accompany
        self.message: tuple[str, str, bool] | None = None
        """The one that was alone when it came: queue, receipt, and whether it must stay so."""
        self.beside: list[tuple[str, str]] = []
        """What was alone and is not any more, by queue and receipt: not reported yet."""
        self._drains_until = self._rests_until = 0.0

    # ── what was claimed ──────────────────────────────────────────────────────────────────────

    def must_be(self) -> bool:
        """Whether a message that is held must stay alone."""
        if self.message is None or not self.message[2]:
            return False
        lease = self._leases.get(self.message[1])
        return lease is not None and lease.holder() is not None

    def holds(self) -> bool:
        """Whether anything is held that would end with this process."""
        # Not `any()` of a method: each claim asks, and what was dropped stays until its lease ends.
        now = time.monotonic()
        for lease in self._leases.copy().values():
            if lease.begins <= now and lease.holder() is not None:
                return True
        return False

    def note(self, claim: Claimed, strictly: bool) -> None:
        """This is held from now on; to be called before it is among the leases."""
        before, self.message = self.message, None
        leases = self._leases
        if before is not None and before[1] in leases:
            self.beside.append(before[:2])
        if not claim.alone:
            return
        first = claim.deliveries[0]
        if strictly:
            self._drains_until = 0.0
        if leases and self.holds():
            self.beside.append((first.queue, first.receipt))
        else:
            self.message = (first.queue, first.receipt, strictly)

    # ── what a consumer may claim beside it: see `flows.Company` ──────────────────────────────

    def company(self) -> int:
        """What a claim that is sent now says of what is held here: see `calls.claim`."""
        if not (self._leases and self.holds()):
            self._drains_until = 0.0
            return calls.SOLE
        ready = time.monotonic() >= max(self._drains_until, self._rests_until)
        return int(DRAIN * 1000) if ready else calls.HOLDS

    def drain(self, seconds: float) -> None:
        """Claim nothing for so long, so as to come to hold nothing.

        Should that be in vain, as much time passes with work before the next one.
        """
        now = time.monotonic()
        if now >= self._rests_until:
            self._drains_until = now + seconds
            self._rests_until = self._drains_until + seconds

    def stands_still(self) -> bool:
        """Whether nothing is to be claimed now: one message is alone, or is to be."""
        # Asked at every turn of an event loop: mostly nothing is alone, and nothing drains.
        if not self._leases or (self.message is None and not self._drains_until):
            return False
        return self.must_be() or (time.monotonic() < self._drains_until and self.holds())

    def accompanied(self) -> list[Call[Any]]:
        """To be said to the server: what was alone and is not any more."""
        found: list[Call[Any]] = []
        while self.beside:
            call = self._accompany(*self.beside.pop())
            if call is not None:
                found.append(call)
        return found
