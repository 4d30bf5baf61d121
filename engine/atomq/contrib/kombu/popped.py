"""Messages that are popped off ready lists, for consumers without acks: no lease holds them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from atomq import calls
from atomq.contrib.kombu.broadcasts import payload_of
from atomq.contrib.kombu.declaring import is_reply_queue
from atomq.errors import InvalidMessage

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker

log = logging.getLogger("atomq.kombu")


class Popped:
    """The ready lists that one connection pops from, or has popped from, and what came of them."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._broker: Broker = transport.broker
        self._lists: dict[str, tuple[str, int]] = {}
        """Queue and priority step of each list."""

    def lists(self, queue: str) -> tuple[str, ...]:
        """The lists to pop from for a consumer of this queue."""
        found: tuple[str, ...] = self._broker.keys(queue).ready
        for step, key in enumerate(found, 1):
            self._lists[key] = queue, step
        return found

    def hand_over(self, key: str, queue: str, raw: bytes) -> None:
        """Hand a message to the consumer of its queue, or put it back if the consumer has left."""
        callback = self._transport._callbacks.get(self._broker.spread.whole(queue))
        if callback is None:
            self.put_back(key, raw)
            return
        try:
            callback(payload_of(raw))
        except InvalidMessage as error:
            self._broker.dead_letter(queue, key, raw, error)

    def put_back(self, key: str, raw: bytes) -> None:
        """Return a message that was popped for a consumer that has left. Raises our exceptions."""
        if is_reply_queue(key):
            log.debug("no client waits for this reply any more: %s", key)  # its list would stay
        else:
            queue, step = self._lists[key]
            self._broker.engine.run(calls.put_back(self._broker.keys(queue), raw, step=step))
