"""Makes an event loop come back to us: in its next turn, or when it is time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from math import inf
from typing import Any


class Waker:
    """A file that is readable for as long as it is set. Belongs to one thread."""

    def __init__(self) -> None:
        self._heard, self._pulled = socket.socketpair()
        self.is_set = False

    def fileno(self) -> int:
        """The file to watch."""
        return self._heard.fileno()

    def set(self, on: bool) -> None:
        """Set it, or clear it."""
        if on and not self.is_set:
            self._pulled.send(b"\0")
        elif self.is_set and not on:
            self._heard.recv(1)
        self.is_set = on

    def close(self) -> None:
        """Close both ends."""
        self._heard.close()
        self._pulled.close()


class Alarm:
    """When an event loop is to come back, by its timers. Belongs to one thread.

    A timer that was set stays when an earlier one is: the loop keeps those that are cancelled until
    their time, which may be in a week.
    """

    def __init__(self, call_later: Callable[..., Any], ring: Callable[[], object]) -> None:
        """`call_later(seconds, function)` is the loop's, `ring` is called when it is time."""
        self._call_later = call_later
        self._ring = ring
        self._timers: list[tuple[float, Any]] = []  # the earliest is the last one
        self.at = inf
        """When it rings next (monotonic)."""

    def set(self, at: float) -> None:
        """Ring then too, which is before `self.at`."""
        timer = self._call_later(max(0.0, at - time.monotonic()), self._rings)
        self._timers.append((at, timer))
        self.at = at

    def _rings(self) -> None:
        self._timers.pop()
        self.at = self._timers[-1][0] if self._timers else inf
        self._ring()

    def cancel(self) -> None:
        """Ring no more."""
        for _, timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.at = inf
