"""A message that was claimed."""

from __future__ import annotations

import re

from atomq.message import Envelope

# What stands at the head, as the scripts read it: stock Kombu writes blanks when it gives one back.
_SAID = r'"x-%s": ?"?[\w.+-]*"?, ?'
_HEAD = "".join(f"(?:{_SAID % name})?" for name in ("deliveries", "expires"))
_SPARED = re.compile(rf'\{{{_HEAD}"x-spared": ?"?(\d{{1,8}})'.encode())
_ID = r'"x-tracked": ?"([^"\\ ]+)(?: \d+)?"'
_TRACKED = re.compile(rf"\{{{_HEAD}(?:{_SAID % 'spared'})?{_ID}".encode())


class Delivery:
    """One claimed message: what the server answered, and the receipt that acks it."""

    __slots__ = (
        "__weakref__",
        "cancelled",
        "deliveries",
        "envelope",
        "lost",
        "queue",
        "receipt",
        "settled",
        "step",
        "word",
    )

    def __init__(self, queue: str, receipt: str, deliveries: int, step: int, raw: bytes) -> None:
        self.queue = queue
        self.receipt = receipt
        self.deliveries = deliveries
        self.step = step
        self.envelope = Envelope(raw)
        self.settled = self.lost = self.cancelled = False
        self.word = receipt
        """What acks it: its receipt, and if it is tracked a blank and the name of its record."""
        if raw[2:3] == b"x" and (found := _TRACKED.match(raw)):
            self.word = f"{receipt} {found[1].decode()}"

    @property
    def charged(self) -> int:
        """Its deliveries, this one included, but for those that were spared.

        Those ended without a word while their consumer held other messages, which says nothing of
        this one. What is left is what counts towards `max_deliveries`.
        """
        return self.deliveries - self.spared

    @property
    def spared(self) -> int:
        """How many earlier deliveries were spared; from two on it is handed out alone."""
        found = _SPARED.match(self.envelope.raw) if self.deliveries > 1 else None
        return min(int(found[1]), self.deliveries - 1) if found else 0

    def __repr__(self) -> str:
        return f"Delivery({self.queue!r}, {self.receipt!r}, deliveries={self.deliveries})"
