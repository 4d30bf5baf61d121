"""One connection that a thread has to itself: what is sent over it, and the answers.

`line_aio.py` is what the tasks of an event loop have instead, which share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as server

from atomq import wires
from atomq.conversation import Conversation


class Line:
    """One connection: what is sent over it, and the answers."""

    __slots__ = ("impatient", "since", "talk", "wire")

    def __init__(
        self, wire: wires.Wire | wires.MemoryWire, late_after: float | None = None
    ) -> None:
        self.wire = wire
        self.impatient = late_after is not None and wire.be_impatient(late_after)
        """Whether an answer that is late ends a read: no thread has to look for it before."""
        self.talk = Conversation()
        self.talk.feed(wire.read_before)
        self.since = 0.0
        """When it was used last (monotonic)."""


def hung_up(line: Line) -> bool:
    """Whether an idle connection was closed by the server: nothing else makes it readable."""
    return line.wire.readable(0)


def converse(
    line: Line,
    data: Sequence[bytes],
    wait: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
    late: Callable[[], Callable[[], None]] | None = None,
) -> list[Any]:
    """Send commands and wait for the replies: server errors are among them, not raised.

    `meanwhile` is called once all is sent, and `wait` before each read. Once an answer is late,
    `late` says how to wait from then on.
    """
    wire, count = line.wire, len(data)
    replies: list[Any] = []
    wire.send(b"".join(data) if count > 1 else data[0])
    if meanwhile is not None:
        meanwhile()
    while True:
        if wait is not None:
            wait()
        try:
            received = wire.receive()
        except server.TimeoutError:
            if wait is not None or late is None:
                raise
            wait = late()
            continue
        if line.talk.collect(received, replies, count):
            return replies
