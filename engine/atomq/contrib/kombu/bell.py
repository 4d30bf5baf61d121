"""A bell for an event loop: it comes round to us again at once, whatever else it waits for."""

from __future__ import annotations

import socket


class Bell:
    """A file that is readable for as long as the bell rings. Belongs to one thread."""

    def __init__(self) -> None:
        self._heard, self._pulled = socket.socketpair()
        self.rings = False

    def fileno(self) -> int:
        """The file to watch."""
        return self._heard.fileno()

    def ring(self, on: bool) -> None:
        """Ring, or be still."""
        if on and not self.rings:
            self._pulled.send(b"\0")
        elif self.rings and not on:
            self._heard.recv(1)
        self.rings = on

    def close(self) -> None:
        """Ring no more."""
        self._heard.close()
        self._pulled.close()
