"""Looking once a second whether there is something to claim that no token tells of.

Of all consumers of a queue one looks; the others hear of it on the queue's channel, over the socket
that waits. See `atomq/looking.py` for which one does, and when.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from atomq import calls
from atomq.calls import Call
from atomq.conversation import Command
from atomq.errors import AtomqError
from atomq.looking import Looks

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker

log = logging.getLogger("atomq.kombu")

# Seconds between two looks at a queue. A wait is ended for it, by the server, up to 0.07 s late.
LOOK = 0.9


class Looker:
    """The looks of one connection, over its socket."""

    def __init__(
        self,
        broker: Broker,
        send: Callable[[Any, Command], None],
        on_found: Callable[[Collection[str]], None],
    ) -> None:
        """`send(purpose, command)` sends a command; `purpose` is called with the answer.

        `on_found(queues)` hears of queues in which there is something to claim.
        """
        self._broker = broker
        self._send = send
        self._on_found = on_found
        self._channels: dict[str, str] = {}  # the queue of each one that is listened to
        self.times = Looks(LOOK, broker.ids.prefix)

    def channels(self, queues: Collection[str]) -> list[str]:
        """What is to be subscribed to on this connection, to hear of looks at these queues too."""
        # In a cluster what is said on a channel goes to every node: each consumer looks for itself.
        if self._broker.engine.layout == "cluster" or self._broker.address.kind == "memory":
            return []
        new = {self._broker.keys(name).looked: name for name in queues}
        found = [channel for channel in new if channel not in self._channels]
        self._channels |= new
        return found

    def disconnected(self) -> None:
        """The connection is gone, and its subscriptions with it."""
        self._channels.clear()

    def heard(self, channel: str, consumer: str) -> None:
        """Another consumer, or this one, has looked."""
        self.times.heard(self._channels.get(channel, ""), consumer, time.monotonic())

    def look(self, able: Collection[str], now: float) -> Sequence[str]:
        """Look at those of these queues whose time it is; which they are."""
        names = [name for name in self.times.due(now) if name in able]
        self.times.looked(names, now)
        cluster = self._broker.engine.layout == "cluster"
        for group in [[name] for name in names] if cluster else [names] if names else []:
            queues = [self._broker.keys(name) for name in group]
            name = self._broker.ids.prefix if self._channels else ""
            look = calls.look(queues, name, renew_ms=self._broker.keeper.renew_ms)
            self._send(partial(self._looked, look, group), look.packed())
        return names

    def _looked(self, look: Call[tuple[str, ...]], names: list[str], reply: Any) -> None:
        try:
            # The engine knows what to do about scripts that are not loaded.
            answer = isinstance(reply, Exception)
            found = self._broker.engine.run(look) if answer else look.parse(reply, False)
        except AtomqError as error:
            log.debug("all is claimed, as it could not be looked at: %s", error)
            found = tuple(names)
        if found:
            self._on_found(found)
