"""Living beside stock workers and producers: what they publish, and what they leave behind.

A stock producer pushes to a list and no token. One waiting consumer a queue, elected by a key that
expires, lets the server track the lists it is blocked beside (CLIENT TRACKING) and hears of it. It
resigns when it can take no more. A stock worker that died left its messages in a hash of its own;
they are taken over by the rules of its visibility timeout.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from atomq import calls
from atomq.calls import Call, Foreign
from atomq.errors import AtomqError
from atomq.keys import QueueKeys

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.settings import Settings

log = logging.getLogger("atomq.kombu")

WATCH_MS = 3000  # a watcher that does not say so again is none any more
RENEW_EVERY = 0.5  # seconds, at least: every wait says so, and waits may be short
RESTORE_EVERY = 10.0  # seconds between two looks at what stock workers left
RESTORE_MOST = 100  # messages taken over in one call


class Watch:
    """Which queues this process watches for messages put by others.

    It only says what to send; whoever waits sends it along with the wait.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._mine: dict[str, float] = {}  # until when
        self._stood: dict[str, float] = {}
        self._resigned: set[str] = set()  # and nobody else was seen to watch them since

    def stand(self, queues: list[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
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
        """How it went. True if it was won and the lists are not tracked yet."""
        had_lists = queue in self._mine or queue in self._resigned
        self._resigned.discard(queue)
        self._mine.pop(queue, None)
        if won:
            self._mine[queue] = self._stood[queue] + WATCH_MS / 1000
        return won and not had_lists

    def lists(self, queues: list[str]) -> list[list[str]]:
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


class Restore:
    """Takes over what dead stock workers left, at most every 10 s."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        prefix = broker.engine.options.global_keyprefix
        self._stock = (prefix + settings.unacked_key, prefix + settings.unacked_index_key)
        self._next = 0.0

    def turn(self, channel: Channel, queue: str) -> int:
        """Do it if it is time; how many messages came back. Never raises for bad records."""
        now = time.monotonic()
        if now < self._next or self._broker.engine.layout == "cluster":
            return 0
        self._next = now + RESTORE_EVERY * random.uniform(0.8, 1.2)
        keys = self._broker.keys(queue)
        total = 0
        while True:
            _, found = self._call(keys, [], RESTORE_MOST)
            targets = [target for foreign in found if (target := self._target(channel, foreign))]
            if not targets:
                break
            restored, _ = self._call(keys, targets, 0)
            total += restored
            if not restored:
                break
        if total:
            log.info("took over %d messages that dead stock workers had left", total)
        return total

    def _call(
        self, keys: QueueKeys, targets: list[tuple[str, QueueKeys, int]], limit: int
    ) -> tuple[int, list[Foreign]]:
        return self._broker.engine.run(
            calls.restore_foreign(
                keys,
                self._stock,
                visibility_s=self._broker.engine.options.visibility_timeout,
                limit=limit,
                targets=targets,
            )
        )

    def _target(self, channel: Channel, foreign: Foreign) -> tuple[str, QueueKeys, int] | None:
        """Where a message belongs: one of its queues, ours first. None: left where it is."""
        try:
            exchange: Any = json.loads(foreign.exchange)
            routing_key: Any = json.loads(foreign.routing_key)
            names = channel._lookup(exchange or "", routing_key)
            ours = [name for name in names if name in channel.claimed_queues()]
            chosen = (ours or names)[0]
            return foreign.tag, self._broker.keys(chosen), foreign.priority
        except (ValueError, LookupError, AtomqError) as error:
            log.warning("cannot tell where %s of a stock worker belongs: %s", foreign.tag, error)
            return None
