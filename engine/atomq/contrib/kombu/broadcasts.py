"""The broadcasts that one connection listens to: which patterns, and for which queues."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from atomq.contrib.kombu.reading import from_json
from atomq.errors import InvalidMessage

if TYPE_CHECKING:
    from atomq.contrib.kombu.channel import Channel

log = logging.getLogger("atomq.kombu")


class Broadcasts:
    """Patterns by what is to be subscribed, and what hears of each."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._listeners: dict[str, list[tuple[Channel, str]]] = {}

    @property
    def patterns(self) -> list[str]:
        """What the connection is to be subscribed to."""
        return list(self._listeners)

    def changed(self) -> tuple[list[str], list[str]]:
        """Look at the consumers anew: the patterns to subscribe, and those to leave."""
        wanted: dict[str, list[tuple[Channel, str]]] = {}
        for channel in self._transport.channels:
            for pattern, queue in channel.subscriptions():
                wanted.setdefault(pattern, []).append((channel, queue))
        before, self._listeners = self._listeners, wanted
        new = [pattern for pattern in wanted if pattern not in before]
        return new, [pattern for pattern in before if pattern not in wanted]

    def forget(self) -> None:
        """The connection is gone, and its subscriptions with it."""
        self._listeners = {}

    def hand_over(self, pattern: str, topic: bytes, raw: bytes) -> bool:
        """Hand a message to the consumers that listen; False if there is none."""
        handed = False
        for channel, queue in self._listeners.get(pattern, ()):
            callback = self._transport._callbacks.get(queue)
            if callback is None or not raw:
                continue
            try:
                payload = payload_of(raw)
                if not channel.repeated(queue, payload):
                    callback(payload)
                    handed = True
            except InvalidMessage as error:
                log.warning("an unreadable broadcast on %r was dropped: %s", topic, error)
        return handed


def payload_of(raw: bytes) -> dict[str, Any]:
    """What lies in a message or a broadcast. Raises `InvalidMessage`, whatever is wrong with it."""
    try:
        payload = from_json(raw.decode())
    except Exception as error:
        raise InvalidMessage(f"{type(error).__name__}: {error}") from error
    if not isinstance(payload, dict):
        raise InvalidMessage(f"it is not a JSON object but {type(payload).__name__}")
    return payload
