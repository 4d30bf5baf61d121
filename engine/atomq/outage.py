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
LAPSE = 3.0  # seconds after which what is missed again, without a line so far, is another trouble


class Outage:
    """What was said about one server, or one slot of it: "the server", and its address."""

    def __init__(self, name: str, place: tuple[str, int] | None = None) -> None:
        """`name` has no password. `place` is that of a node of a cluster."""
        self.name = name
        self.place = place
        self._since: float | None = None  # the first time that it was missed
        self._last = 0.0
        self._said: float | None = None
        self._ended = 0.0
        self._saying = threading.Lock()  # never waited for: what is being said need not be said
        fork.renew(self)

    def away(self, error: Exception, seconds: float = 0.0, more: float = 0.0) -> None:
        """It cannot be reached, or cannot serve now.

        It was missed so many seconds ago, and will be waited for so many `more` at least. What was
        before it was back, or replaced, was another trouble, though the same call may have met it.
        """
        now = time.monotonic()
        if self._was_said(now) or not self._saying.acquire(blocking=False):
            return
        try:
            since = max(now - seconds, self._ended)
            if self._since is not None and (self._said is not None or now - self._last < LAPSE):
                since = min(since, self._since)
            self._since, self._last = since, now
            if now + more - since > PATIENCE and not self._was_said(now):
                self._said = now
                log.warning("waiting for %s: %s", self.name, str(error))
        finally:
            self._saying.release()

    def _was_said(self, now: float) -> bool:
        said = self._said
        return said is not None and now - said < EVERY

    def back(self) -> None:
        """It has answered."""
        self._over("%s is back after %.1f s")

    def left(self) -> None:
        """Other nodes serve what it did: no call waits for it any more."""
        self._over("%s serves no slots any more: it was waited for for %.1f s")

    def _over(self, text: str) -> None:
        if self._since is not None and self._saying.acquire(blocking=False):
            try:
                since, self._since = self._since, None
                said, self._said = self._said, None
                self._ended = time.monotonic()
                if since is not None and said is not None:
                    log.warning(text, self.name, self._ended - since)
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


class Unreported(Outage):
    """One of which nothing is logged: what meets it is nothing that a user waits for."""

    def away(self, _error: Exception, _seconds: float = 0.0, _more: float = 0.0) -> None:
        """The server cannot be reached, which others report."""

    def back(self) -> None:
        """The server has answered."""

    def left(self) -> None:
        """Other nodes serve what it did."""


_outages: WeakValueDictionary[str, Outage] = WeakValueDictionary()


def outage_of(address: str) -> Outage:
    """The one of this server; shared by all that hold it."""
    return _outage_of(f"the server {address}")


def outage_of_node(place: tuple[str, int]) -> Outage:
    """The one of a node of a cluster."""
    return _outage_of("the server {}:{}".format(*place), place)


def outage_of_slot(slot: int) -> Outage:
    """The one of a slot of a cluster that moves, key by key, while its node is well."""
    return _outage_of(f"slot {slot}")


def _outage_of(name: str, place: tuple[str, int] | None = None) -> Outage:
    return _outages.setdefault(name, Outage(name, place))
