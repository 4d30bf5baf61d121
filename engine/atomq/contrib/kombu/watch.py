"""Hearing of messages that stock producers put: they push to a list, and no token.

One waiting consumer a queue, elected by a key that expires, lets the server track the ready lists
(CLIENT TRACKING) and hears of each change. It resigns when it can take no more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import calls
from atomq.calls import Call

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker

log = logging.getLogger("atomq.kombu")

WATCH_MS = 3000  # a watcher that does not renew its key for so long is none any more
RENEW_EVERY = 0.5  # seconds, at least: every wait renews it, and waits may be short


class Election:
    """Which queues this connection watches. It makes commands; the connection sends them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._mine: dict[str, float] = {}  # until when
        self._stood: dict[str, float] = {}
        self._resigned: set[str] = set()  # and no other watcher was seen since

    def stand(self, queues: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Commands that stand for election, by queue; the key is renewed while it is ours."""
        if self._broker.engine.layout == "cluster":
            return
        now = time.monotonic()
        for queue in queues:
            left = self._mine.get(queue, 0.0) - now
            if left < WATCH_MS / 1000 - RENEW_EVERY:
                self._stood[queue] = now
                only = "XX" if left > 0 else "NX"
                key = self._broker.keys(queue).watch
                yield queue, ("SET", key, self._broker.ids.prefix, only, "PX", WATCH_MS)

    def elected(self, queue: str, *, won: bool) -> bool:
        """Note the result. True if it was won and the lists are not tracked yet."""
        had_lists = queue in self._mine or queue in self._resigned
        self._resigned.discard(queue)
        self._mine.pop(queue, None)
        if won:
            self._mine[queue] = self._stood[queue] + WATCH_MS / 1000
        return won and not had_lists

    def lists(self, queues: Sequence[str]) -> list[list[str]]:
        """The ready lists to track now, by queue: of what is ours, or was and will be again."""
        return [
            list(self._broker.keys(queue).ready)
            for queue in queues
            if queue in self._mine or queue in self._resigned
        ]

    def resign(self, staying: Collection[str] = ()) -> Iterator[Call[None]]:
        """Calls that leave the watch of all but `staying` to others, and wake one of them."""
        for queue in [name for name in self._mine if name not in staying]:
            if self._mine.pop(queue) > time.monotonic():
                self._resigned.add(queue)
                yield calls.resign(self._broker.keys(queue), ttl_ms=WATCH_MS)


class Watch:
    """The watch of one connection, over its socket."""

    def __init__(
        self,
        broker: Broker,
        send: Callable[..., None],
        on_elected: Callable[[str], None],
        on_lists: Callable[[list[str]], None],
    ) -> None:
        """`send(purpose, *command)` sends a command; `purpose` is called with the answer.

        `on_elected(queue)` hears of an election that was won: messages may lie there already.
        `on_lists(keys)` hears of ready lists that had messages when they were read.
        """
        self._broker = broker
        self._send = send
        self._on_elected = on_elected
        self._on_lists = on_lists
        self._election = Election(broker)
        self._tracking: bool | None = None  # None: not tried on this connection

    def arm(self, queues: Sequence[str]) -> None:
        """Before a wait: stand for election, and let the server track the lists that are ours."""
        for queue, command in self._election.stand(queues):
            self._send(partial(self._elected, queue), *command)
        watched = self._election.lists(queues)
        if not watched or self._tracking is False:
            return
        if self._tracking is None:
            self._tracking = True
            self._send(self._tracked, "CLIENT", "TRACKING", "ON", "NOLOOP")
        for lists in watched:  # the server tracks a key once it was read
            self._send(partial(self._tracked, lists=lists), "EXISTS", *lists)

    def disarm(self) -> None:
        """Before a claim: the server shall not track what its script reads.

        For each key that a script reads, Redis up to 7.0 remembers all keys of the script, which is
        the square of the queues. https://github.com/redis/redis/issues/11770
        """
        if self._tracking:
            self._tracking = None
            self._send(_ignore, "CLIENT", "TRACKING", "OFF")

    def resign(self, staying: Collection[str] = ()) -> list[Call[None]]:
        """Calls that leave the watch of all queues but `staying` to other consumers."""
        return list(self._election.resign(staying))

    def send(self, call: Call[None]) -> None:
        """Send a call of `resign` over the socket."""
        self._send(partial(self._resigned, call), *call.command())

    def disconnected(self) -> None:
        """The connection is gone, and its tracking with it."""
        self._tracking = None

    def _elected(self, queue: str, reply: Any) -> None:
        if isinstance(reply, server.ResponseError):  # the claim once a second finds it, too
            log.debug("no watcher of %s: %s", queue, reply)
            reply = None
        if self._election.elected(queue, won=bool(reply)):
            self._on_elected(queue)

    def _tracked(self, reply: Any, lists: list[str] | None = None) -> None:
        if isinstance(reply, server.ResponseError):
            log.debug("not watching for stock producers: %s", reply)
            self._tracking = False
        elif lists is not None and reply:
            self._on_lists(lists)

    def _resigned(self, call: Call[None], reply: Any) -> None:
        if isinstance(reply, server.NoScriptError):
            self._broker.engine.run(call)


def _ignore(_: Any) -> None:
    """An answer, or an error, that changes nothing."""
