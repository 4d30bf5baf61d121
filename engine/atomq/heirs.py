"""The replicas of a cluster, each of which may be a primary soon: the scripts are loaded there.

A node has the scripts that were loaded there, and a replica gets none from its primary. As the new
primary it would answer NOSCRIPT, and users that may not load could do nothing about it. So a
process that consumes looks, whenever it writes the register, at the replicas that it has not looked
at yet, and at one of the others by chance, for a node that began anew has no scripts either.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Protocol

from atomq.errors import AtomqError, ScriptsNotLoaded

log = logging.getLogger("atomq.client")


class Replica(Protocol):
    """One of them: see `Node`."""

    name: str

    def knows_scripts(self) -> bool:
        """Whether it knows the scripts of this release."""
        ...

    def load(self) -> object:
        """Load them all. Raises `ScriptsNotLoaded` if this user may not."""
        ...


class Heirs:
    """Those that this process knows of."""

    def __init__(self) -> None:
        self._ready: set[str] = set()
        self._warned: set[str] = set()

    def to_look_at(self, replicas: Sequence[Replica]) -> list[Replica]:
        """Those to be prepared now: the new ones, and one of the others."""
        names = {replica.name for replica in replicas}
        self._ready &= names
        self._warned &= names
        new = [replica for replica in replicas if replica.name not in self._ready]
        others = [each for each in replicas if each.name in self._ready - self._warned]
        return new + random.sample(others, min(1, len(others)))

    def prepare(self, replica: Replica) -> None:
        """Have it know the scripts, or say that it does not. One that is away is tried again."""
        try:
            if not replica.knows_scripts():
                replica.load()
                log.info("the replica %s knows the scripts now", replica.name)
        except ScriptsNotLoaded:
            self._warned.add(replica.name)
            log.warning(
                "the replica %s does not know the scripts, and this user may not load them: run "
                "`atomq scripts load` before it becomes the primary",
                replica.name,
            )
        except AtomqError as error:
            self._ready.discard(replica.name)
            log.debug("the replica %s was not looked at: %s", replica.name, error)
            return
        self._ready.add(replica.name)
