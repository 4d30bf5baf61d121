"""Servers that are away: said when one is missed, once a minute meanwhile, and when it is back.

One `Outage` a server and process. Whatever talks to the server reports to it: producers, consumers,
the thread that renews leases. So a hundred consumers that wait for one server log one line.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any
from weakref import WeakValueDictionary

from atomq import fork

log = logging.getLogger("atomq.client")

EVERY = 60.0  # seconds between two lines about one server that stays away
PATIENCE = 1.0  # seconds of trying again that are not worth a line


class Outage:
    """What was said about one server, or one slot of it: "the server", and its address."""

    def __init__(self, name: str) -> None:
        """`name` has no password."""
        self.name = name
        self._since: float | None = None
        self._said = 0.0
        self._saying = threading.Lock()  # never waited for: what is being said need not be said
        fork.renew(self)

    def away(self, error: Exception, seconds: float = 0.0) -> None:
        """It cannot be reached, or cannot serve now; it was missed so many seconds ago."""
        now = time.monotonic()
        if self._since is not None and now - self._said < EVERY:
            return
        if self._saying.acquire(blocking=False):
            try:
                if self._since is None or now - self._said >= EVERY:
                    self._since, self._said = self._since or now - seconds, now
                    log.warning("waiting for %s: %s", self.name, str(error))
            finally:
                self._saying.release()

    def back(self) -> None:
        """It has answered."""
        if self._since is not None and self._saying.acquire(blocking=False):
            try:
                since, self._since = self._since, None
                if since is not None:
                    seconds = time.monotonic() - since
                    log.warning("%s is back after %.1f s", self.name, seconds)
            finally:
                self._saying.release()

    def forked(self) -> None:
        """Begin anew in a child process."""
        self._saying = threading.Lock()


class Standing:
    """What an engine knows of one server. In a cluster each node has its own."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        self.verified = False
        """Whether this user may run there what the scripts run, as far as was asked."""
        self.verifying: Any = None
        """The future of the thread, or task, that asks."""
        self.verifier = 0
        """That thread."""
        self.confirming: set[Any] = set()
        """Each `Durability` that the server was seen to confirm, since the rights were verified."""

    def gave_up(self, error: Exception) -> None:
        """The server is away, or takes no writes: the next call looks at it anew."""
        self.verified = False
        self.outage.away(error)


class Unreported(Outage):
    """One of which nothing is logged: what meets it is nothing that a user waits for."""

    def away(self, _error: Exception, _seconds: float = 0.0) -> None:
        """The server cannot be reached, which others report."""

    def back(self) -> None:
        """The server has answered."""


_outages: WeakValueDictionary[str, Outage] = WeakValueDictionary()


def outage_of(address: str) -> Outage:
    """The one of this server; shared by all that hold it."""
    return _outage_of(f"the server {address}")


def outage_of_slot(slot: int) -> Outage:
    """The one of a slot of a cluster that moves, key by key, while its node is well."""
    return _outage_of(f"slot {slot}")


def _outage_of(name: str) -> Outage:
    return _outages.setdefault(name, Outage(name))
