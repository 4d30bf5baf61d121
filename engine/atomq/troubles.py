"""What is tried again several times a second, and logged once."""

from __future__ import annotations

import logging
from typing import Any

from atomq.errors import AtomqError, ServerUnavailable

log = logging.getLogger("atomq.leases")


def is_of_all(error: AtomqError, slots: object) -> bool:
    """Whether the calls of all other queues meet the same now: their one server takes none.

    With `slots`, the map of a cluster, it may be the trouble of one slot that moves.
    """
    return slots is None and isinstance(error, ServerUnavailable) and error.unsent


class Troubles:
    """Which queues are in trouble that is not the server's; `what` of them: their acks, say."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._queues: set[str] = set()

    def met(self, error: AtomqError, queue: str, *words: Any) -> None:
        """Log it, if it is not known. The engine logs an outage."""
        known = isinstance(error, ServerUnavailable) or queue in self._queues
        log.log(logging.DEBUG if known else logging.WARNING, *words, error)
        if not isinstance(error, ServerUnavailable):
            self._queues.add(queue)

    def has(self, queue: str) -> bool:
        """Whether it is in such trouble."""
        return queue in self._queues

    def over(self, queue: str) -> None:
        """All is well with it."""
        if queue in self._queues:
            self._queues.discard(queue)
            log.info("%s of %s are well again", self._what, queue)
