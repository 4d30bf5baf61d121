"""Hearing of messages that stock producers put: they push to a list, and no token.

One waiting consumer a queue, elected by a key that expires, lets the server track the ready lists
(CLIENT TRACKING) and hears of each change. What is sent at a wait follows what changed since the
last one, not how many queues there are. When it can take no more for a while it resigns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import calls
from atomq.calls import Call
from atomq.conversation import Command
from atomq.flows import Flow, ask, clock

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.keys import QueueKeys

log = logging.getLogger("atomq.kombu")

WATCH_MS = 3000  # a watcher that does not renew its key for so long is none any more
RENEW_AFTER = 1.2  # seconds of these: at every other look
LINGER = 0.1  # seconds for which one that can take nothing may still watch


class Election:
    """Which queues this connection watches. It makes commands; the connection sends them.

    It belongs to one thread, but for what the keeper of leases calls while a task runs in that:
    see `backlog.Waits`.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._mine: dict[str, float] = {}  # until when
        self._stood: dict[str, float] = {}
        self._wanted: set[str] = set()  # for these it stands at the next wait
        self._lists: dict[str, str] = {}  # the queue of each list that was ever tracked
        self._tracked: set[str] = set()  # queues of whose lists the server tells, once
        self._busy: float | None = None  # since when its thread works on a task, by `clock`
        self._was_busy = False  # since the keeper asked
        self._left_at = 0.0  # when the keeper last left the watches to others

    # ── the election ──────────────────────────────────────────────────────────────────────────

    def want(self, queue: str) -> None:
        """Stand for election: it may be that no consumer watches this queue."""
        self._wanted.add(queue)

    def stand(self, queues: Collection[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Commands that stand for election, by queue; the key is renewed while it is ours."""
        if not self._wanted or self._broker.engine.layout == "cluster":
            return
        now = time.monotonic()
        for queue in self._wanted.intersection(queues):
            left = self._mine.get(queue, 0.0) - now
            if left > WATCH_MS / 1000 - RENEW_AFTER:
                continue
            self._stood[queue] = now
            only = "XX" if left > 0 else "NX"
            key = self._broker.keys(queue).watch
            yield queue, ("SET", key, self._broker.ids.prefix, only, "PX", WATCH_MS)
        self._wanted.difference_update(queues)

    def elected(self, queue: str, *, won: bool) -> bool:
        """Note the result. True if it was won, and was not ours before."""
        before = self._mine.pop(queue, None)
        if won:
            self._mine[queue] = self._stood[queue] + WATCH_MS / 1000
        return won and before is None

    # ── what the server tells of ──────────────────────────────────────────────────────────────

    def lists(self, queues: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
        """The queues that are ours and whose ready lists are to be tracked from now on."""
        found = []
        for queue in self._mine.keys() - self._tracked if self._mine else ():
            if queue in queues:
                ready = self._broker.keys(queue).ready
                self._tracked.add(queue)
                self._lists.update(dict.fromkeys(ready, queue))
                found.append((queue, ready))
        return found

    def changed(self, lists: Collection[str] | None) -> set[str]:
        """The server reported, once, that these lists changed; which queues they are of.

        None: all keys were removed.
        """
        queues = {queue for key in lists or () if (queue := self._lists.get(key)) is not None}
        self._tracked.difference_update(self._tracked.copy() if lists is None else queues)
        return queues

    def claimed(self, queues: Collection[str]) -> None:
        """They were claimed over this connection: the server does not report what that changed."""
        self._tracked.difference_update(queues)

    def disconnected(self) -> None:
        """The connection is gone, and its tracking with it."""
        self._tracked.clear()

    # ── leaving it to others ──────────────────────────────────────────────────────────────────

    def resign(self, staying: Collection[str] = ()) -> Iterator[Call[None]]:
        """Calls that leave the watch of all but `staying` to others, and wake one of them."""
        now = time.monotonic()
        for queue in [name for name in self._mine if name not in staying]:
            if self._mine.pop(queue, 0.0) > now:
                self._wanted.add(queue)
                yield calls.resign(self._broker.keys(queue), ttl_ms=WATCH_MS)

    def has_more(self, able: Collection[str]) -> bool:
        """Whether it watches a queue that is none of these."""
        return any(queue not in able for queue in self._mine)

    def begin(self) -> None:
        """The thread works on a task now, and hears nothing until that is done.

        If it takes long, the keeper leaves all watches to others.
        """
        self._busy = clock()
        if self._mine and not self._was_busy:  # most tasks are short, and the keeper knows by now
            self._was_busy = True
            self._broker.keeper.watch(self, LINGER)

    def end(self) -> None:
        """The task is done."""
        self._busy = None

    @property
    def queue(self) -> QueueKeys:
        """See `backlog.Waits`."""
        return self._broker.keys(next(iter(self._stood)))

    def waits_until(self) -> float:
        """See `backlog.Waits`."""
        busy, was_busy, self._was_busy = self._busy, self._was_busy, False
        if busy is not None:
            return busy + LINGER if self._mine else inf
        return clock() + LINGER if was_busy else inf

    def withdraw(self) -> list[str]:
        """See `backlog.Waits`."""
        self._left_at = clock()
        return list(self._mine) if self._busy is not None else []

    def give_back(self) -> Flow[None]:
        """See `backlog.Waits`. What could not be said in time is over by itself."""
        for call in self.resign():
            if clock() - self._left_at < WATCH_MS / 1000:
                yield from ask(call)


class Watch:
    """The watch of one connection, over its socket."""

    def __init__(
        self,
        broker: Broker,
        send: Callable[[Any, Command], None],
        on_messages: Callable[[str], None],
    ) -> None:
        """`send(purpose, command)` sends a command; `purpose` is called with the answer.

        `on_messages(queue)` hears of a queue in which there are messages, or may be.
        """
        self._broker = broker
        self._send = send
        self._on_messages = on_messages
        self.election = Election(broker)
        self._tracking: bool | None = None  # None: not tried on this connection

    def arm(self, queues: Collection[str]) -> None:
        """Before a wait: stand for election, and let the server track the lists that are ours.

        Only those: of each key that a script reads, Redis up to 7.0 remembers all keys of the
        script, which is the square of the queues. https://github.com/redis/redis/issues/11770
        """
        for queue, command in self.election.stand(queues):
            self._send(partial(self._elected, queue), command)
        if self._tracking is False:
            return
        for queue, lists in self.election.lists(queues):
            if self._tracking is None:
                self._tracking = True
                self._send(self._tracked, ("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"))
            # Of what the next command reads.
            self._send(self._tracked, ("CLIENT", "CACHING", "YES"))
            self._send(partial(self._tracked, queue=queue), ("EXISTS", *lists))

    def resign(self, staying: Collection[str] = ()) -> list[Call[None]]:
        """Calls that leave the watch of all queues but `staying` to other consumers."""
        return list(self.election.resign(staying))

    def send(self, call: Call[None]) -> None:
        """Send a call of `resign` over the socket."""
        self._send(partial(self._resigned, call), call.packed())

    def disconnected(self) -> None:
        """The connection is gone, and its tracking with it."""
        self._tracking = None
        self.election.disconnected()

    def _elected(self, queue: str, reply: Any) -> None:
        if isinstance(reply, server.ResponseError):  # the look once a second finds it, too
            log.debug("no watcher of %s: %s", queue, reply)
            reply = None
        if self.election.elected(queue, won=bool(reply)):
            self._on_messages(queue)

    def _tracked(self, reply: Any, queue: str = "") -> None:
        if isinstance(reply, server.ResponseError):
            log.debug("not watching for stock producers: %s", reply)
            self._tracking = False
        elif queue and reply:
            self._on_messages(queue)

    def _resigned(self, call: Call[None], reply: Any) -> None:
        if isinstance(reply, server.NoScriptError):
            self._broker.engine.run(call)
