"""What the channels of one connection ask for: which have room, and which keys bring messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from atomq.contrib.kombu.broker import Broker
    from atomq.contrib.kombu.channel import Channel
    from atomq.contrib.kombu.hand_over import HandOver
    from atomq.contrib.kombu.popped import Popped


class Source(NamedTuple):
    """What a key belongs to that a wait was answered with."""

    queue: str
    is_popped: bool
    """A ready list of a consumer without acks; otherwise the tokens of a queue."""


class Demand:
    """Kept until consumers change, for the event loop asks at every turn."""

    def __init__(self, transport: Any, buffer: HandOver, popped: Popped) -> None:
        self._transport = transport
        self._broker: Broker = transport.broker
        self._buffer = buffer
        self._popped = popped
        self._claimers: list[Channel] | None = None
        self.waits: dict[tuple[Channel, ...], tuple[str, ...]] = {}
        """What `keys` answered since consumers changed."""

    def regroup(self) -> None:
        """Consumers have changed."""
        self._claimers = None
        self.waits.clear()

    def rooms(
        self, *, least: bool = False, reserved: Callable[[Channel], int] | None = None
    ) -> dict[Channel, int]:
        """Channels with room that is worth a call (`least`: with any), and how much that is.

        `reserved` says how much of a channel's room claims that are under way have asked for.
        """
        if self._claimers is None:
            self._claimers = [ch for ch in self._transport.channels if ch.claimed_queues()]
        found: dict[Channel, int] = {}
        for channel in self._claimers:
            taken = self._buffer.count(channel) if self._buffer.waiting else 0
            if reserved is not None:
                taken += reserved(channel)
            room = channel.room(taken, least=least)
            if room and not channel.closed:
                found[channel] = room
        return {} if found and self._broker.keeper.alone.stands_still() else found

    def keys(self, able: tuple[Channel, ...]) -> Sequence[str]:
        """What to wait on: tokens of what `able` claims from, and the lists that are popped."""
        found = self.waits.get(able)
        if found is None:
            wanted = [
                self._broker.keys(name).wake
                for channel in able
                for name in channel.claimed_queues()
            ]
            for channel in self._transport.channels:
                for name in channel.popped_queues():
                    wanted += self._popped.lists(name)
            found = self.waits[able] = tuple(dict.fromkeys(wanted))
        return found

    def source(self, key: str) -> Source | None:
        """The queue whose tokens or messages lie in this key. None: it is not consumed any more."""
        for channel in list(self._transport.channels):
            for name in channel.claimed_queues():
                if self._broker.keys(name).wake == key:
                    return Source(name, is_popped=False)
            for name in channel.popped_queues():
                if key in self._broker.keys(name).ready:
                    return Source(name, is_popped=True)
        return None

    def claimed(self) -> set[str]:
        """All queues that are claimed from."""
        return {name for ch in self._transport.channels for name in ch.claimed_queues()}
