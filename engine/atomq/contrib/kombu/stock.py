"""Restores what dead stock workers left in their hash, by the rules of their visibility timeout."""

from __future__ import annotations

import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from atomq import calls
from atomq.calls import Foreign
from atomq.errors import AtomqError
from atomq.keys import QueueKeys

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.settings import Settings

log = logging.getLogger("atomq.kombu")

RESTORE_EVERY = 10.0  # seconds between two looks at what stock workers left
RESTORE_MOST = 100  # messages taken over in one call


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
