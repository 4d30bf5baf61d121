"""What a battle counted, and why messages were started again: by what befell their workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.battle.ledger import Event

LEASE = 2.0
AGAIN = "it failed or was cancelled"
DIED = "its process died"
FROZEN = "one of the two processes was frozen for longer than a lease"
AWAY = "the server was away for less than 1.5 s, and a lease of 2 s may end then"
HUNG = "it hung for longer than max_lease"
UNEXPLAINED = "unexplained"
BRIEF = 1.6  # seconds of an outage, with 0.1 until it is killed, that may be no outage to it
# Seconds, while its server is there, in which what has ended is acked. What is acked is not renewed
# any more, so nothing later can have cost its lease. Celery acks when its event loop comes to it,
# and holds it until then.
ACKED, ACKED_LATE = LEASE, 2 * LEASE


@dataclass
class Outcome:
    """What a trial counted."""

    put: int = 0
    starts: int = 0
    deaths: int = 0
    mishaps: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    innocent: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not (self.lost or self.innocent or self.unexplained)


class Judge:
    """What befell the workers, by their process (of a pool, its parent), and what it explains."""

    def __init__(self) -> None:
        self.died: dict[int, float] = {}  # when
        self.frozen: list[tuple[int, float, float]] = []  # which, from when to when
        self.outages: list[tuple[float, float]] = []  # of the server, from when to when
        self.away: Callable[[str], Sequence[tuple[float, float]]] = lambda _: self.outages
        """When the server of a message took no acks, by the message: from when to when."""
        self.mode_of: dict[int, str] = {}
        self.late: tuple[str, ...] = ()
        """The modes that ack late: see `ACKED_LATE`."""
        self.mishaps: list[tuple[str, float]] = []

    def has_died(self, worker: int, at: float | None = None) -> None:
        """Of several times the first counts."""
        at = time.time() if at is None else at
        self.died[worker] = min(at, self.died.get(worker, at))

    def count(
        self,
        events: dict[str, list[Event]],
        out: Outcome,
        also: Callable[[list[Event], Event, int], str | None],
    ) -> None:
        """Find a cause for each start of a message but its first.

        `also` knows causes that only one kind of trial has. It is given what was noted from one
        start on, the start after it, and how many starts, with that, have no other cause.
        """
        for n, seen in events.items():
            starts = [i for i, event in enumerate(seen) if event.what == "start"]
            out.starts += len(starts)
            others = 0
            for i, j in pairwise(starts):
                why = self._why(seen[i:j], seen[j])
                if why is None:
                    others += 1
                    why = also(seen[i:j], seen[j], others)
                out.duplicates[why or UNEXPLAINED] += 1
                if why is None:
                    out.unexplained.append(f"{n}: {seen}; {self.around(seen)}")

    def around(self, seen: Sequence[Event]) -> str:
        """What happened at that time, and to those who did it."""
        workers = {event.worker for event in seen}
        times = [event.at for event in seen]
        about = [m for m in self.mishaps if min(times) - 10 < m[1] < max(times) + 10]
        modes = {worker: self.mode_of.get(worker) for worker in workers}
        frozen = [one for one in self.frozen if one[0] in workers]
        died = {worker: at for worker, at in self.died.items() if worker in workers}
        away = [(i, j) for i, j in self.away(seen[0].n) if j > min(times) - 10]
        return f"{modes}; died {died}; frozen {frozen}; away {away}; {about}"

    def _why(self, seen: list[Event], second: Event) -> str | None:
        first, last = seen[0], self.last_moment(seen, second)
        if any(e.what in ("failed", "cancelled") and e.pid == first.pid for e in seen):
            return AGAIN
        if self.died.get(first.worker, last + 1) <= last:
            return DIED
        for worker, since, until in self.frozen:
            if worker in (first.worker, second.worker) and since <= last and first.at <= until:
                return FROZEN
        for since, until in self.outages:
            is_between = since <= last and first.at - LEASE <= until <= second.at
            if until - since < BRIEF and is_between and second.at < until + 2 * LEASE:
                return AWAY
        return None

    def last_moment(self, seen: Sequence[Event], second: Event) -> float:
        """When the last thing happened that can explain the second start.

        What befell the first worker once it was done, and its ack had time to get through, is no
        reason. An ack has no time while the server is away.
        """
        first = seen[0]
        ends = [e.at for e in seen if e.what == "end" and e.pid == first.pid]
        if not ends:
            return second.at
        at, left = ends[0], ACKED_LATE if self.mode_of.get(first.worker) in self.late else ACKED
        for since, until in sorted(self.away(first.n)):
            if since >= at + left:
                break
            if until > at:
                left -= max(0.0, since - at)
                at = until
        return min(second.at, at + left)
