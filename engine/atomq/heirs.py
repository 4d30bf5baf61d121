"""The nodes of a cluster, or a master and its replicas behind Sentinels: they know the scripts.

A node has the scripts that were loaded there, and a replica gets none from its primary. As the new
primary it would answer NOSCRIPT, and users that may not load could do nothing about it. So a
process that consumes looks, whenever it writes the register, at the nodes that it has not looked at
yet, and at one of the others by chance, for a node that began anew has no scripts either. If a call
of this process was answered NOSCRIPT, it looks at all of them at once. A server that is alone is
looked at only then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Protocol

from atomq.errors import AtomqError, ScriptsNotLoaded

log = logging.getLogger("atomq.client")


class Heir(Protocol):
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

    def to_look_at(self, nodes: Sequence[Heir], *, anew: bool = False) -> list[Heir]:
        """Those to be prepared now: the new ones, and one of the others; `anew`: all."""
        if anew:
            return list(nodes)
        names = {node.name for node in nodes}
        self._ready &= names
        self._warned &= names
        new = [node for node in nodes if node.name not in self._ready]
        others = [each for each in nodes if each.name in self._ready - self._warned]
        return new + random.sample(others, min(1, len(others)))

    def prepare(self, node: Heir) -> None:
        """Have it know the scripts, or say that it does not. One that is away is tried again."""
        try:
            if not node.knows_scripts():
                node.load()
                log.info("%s knows the scripts now", node.name)
        except ScriptsNotLoaded:
            if node.name not in self._warned:
                self._warned.add(node.name)
                log.warning(
                    "%s does not know the scripts, and this user may not load them: run `atomq "
                    "scripts load`, for a replica before it becomes the primary",
                    node.name,
                )
        except AtomqError as error:
            self._ready.discard(node.name)
            log.debug("%s was not looked at: %s", node.name, error)
            return
        self._ready.add(node.name)
