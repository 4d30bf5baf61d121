"""What is said of a queue in numbers, whichever script reads them: by itself, or as one of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_DEAD = "dead:"  # in the counters: how many died of what follows


@dataclass(frozen=True, kw_only=True)
class QueueNumbers:
    """What `QueueState` and `QueueOverview` both have."""

    name: str
    now_ms: int
    """The server's clock."""
    ready_by_priority: dict[int, int]
    unacked: int
    """Held by consumers, with those whose leases ended."""
    expired: int
    """Unacked messages past their deadline: the next claim gets them."""
    delayed: int
    due: int
    """Delayed messages that are due: the next claim gets them."""
    dead: int
    """Dead letters that are there now."""
    next_due_ms: int | None
    """When the next delayed message falls due, or fell due; None: there is none."""
    paused: bool
    stats: dict[str, int]
    """How many messages were published, delivered, acked, … since the queue began."""
    partitions: tuple[str, ...] = ()
    """The names of those it is spread over; none: it was never used with `partitions`.

    In an overview these are the ones that the register knows. On a cluster a partition there knows
    those of the queue that it belongs to.
    """
    unanswered: tuple[str, ...] = ()
    """The partitions that could not be read, and are not counted in."""

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer, of all priorities."""
        return sum(self.ready_by_priority.values())

    @property
    def backlog(self) -> int:
        """What a consumer could claim now: ready, due and expired."""
        return self.ready + self.due + self.expired

    @property
    def next_due_seconds(self) -> float | None:
        """Seconds until the next delayed message is due, below 0 if it is; None: there is none."""
        return None if self.next_due_ms is None else (self.next_due_ms - self.now_ms) / 1000


def counters(pairs: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """What the server counts of a queue: how much of what happened; how many died, by reason."""
    stats, reasons = dict[str, int](), dict[str, int]()
    for name, value in pairs.items():
        if name.startswith(_DEAD):
            reasons[name.removeprefix(_DEAD)] = int(value)
        else:
            stats[name] = int(value)
    return stats, reasons
