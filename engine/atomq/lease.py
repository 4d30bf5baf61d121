"""One lease: what holds it, and what is said of it."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from atomq.errors import InvalidMessage
from atomq.message import Envelope
from atomq.register import Work


class Held(Protocol):
    """What holds a lease. When it is garbage, the lease is not renewed any more."""

    receipt: str
    settled: bool
    lost: bool
    cancelled: bool


class Lease:
    """What is known of one, while its holder lives and works."""

    __slots__ = ("begins", "claimed", "holder", "queue", "since", "started", "tracked")

    def __init__(self, queue: str, holder: weakref.ref[Any], since: float, tracked: bool) -> None:
        self.queue = queue
        self.tracked = tracked
        self.holder = holder
        self.since = since  # by `clock`, no later than it was claimed or last renewed
        self.claimed = since
        self.started: float | None = None
        self.begins = 0.0  # not worked on before


def work_of(lease: Lease, now: float) -> Work:
    """A message as the register names it. It may be settled, or dropped, meanwhile."""
    holder: Any = lease.holder()
    delivery: Any = getattr(holder, "_delivery", holder)
    try:
        envelope = Envelope(delivery.envelope.raw)
        name, task = envelope.id, str(envelope.headers.get("task") or "")
    except (AttributeError, InvalidMessage):
        name = task = ""
    return Work(lease.queue, name[:256], round(now - lease.claimed, 3), task[:256])


def log_extra(holder: Any, queue: str) -> dict[str, Any]:
    """What a log record about a message has besides its text; see `MessageBase.log_extra`."""
    found: dict[str, Any] = getattr(holder, "log_extra", {"queue": queue})
    return found
