"""Makes an event loop come back to us in its next turn, whatever else it waits for."""

from __future__ import annotations

import socket


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
