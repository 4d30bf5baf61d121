"""What a user is known to be allowed, so that a right taken away for a moment ends no worker."""

from __future__ import annotations

import logging
import time

from atomq.errors import PermissionDenied

log = logging.getLogger("atomq.kombu")

FORBIDDEN = 15.0  # seconds for which a right that was there may be missing
CLAIM, WAIT, LISTEN = "claim", "wait for messages", "listen to broadcasts"


class Rights:
    """The rights of one user on one server, as its connections found them."""

    def __init__(self) -> None:
        self._granted: set[str] = set()
        self.denied: dict[str, float] = {}
        """Since when the server refuses what it granted before."""

    def grant(self, asked: str) -> None:
        """The server carried this out."""
        self._granted.add(asked)
        self.denied.pop(asked, None)

    def refuse(self, asked: str, error: PermissionDenied) -> None:
        """Raise `error`, unless the user had this right: its rights may be changing just now.

        In that case the caller tries again, for 15 s at most.
        """
        now, since = time.monotonic(), self.denied.get(asked)
        if asked not in self._granted or (since and now - since > FORBIDDEN):
            raise error
        if since is None:
            log.warning("trying again for %.0f s: %s", FORBIDDEN, error)
            self.denied[asked] = now
