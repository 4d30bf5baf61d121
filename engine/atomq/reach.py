"""Which node of a cluster a call goes to, and what becomes known of the nodes on the way.

It is made from `reach_aio.py` by `make format`: edit that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.connection import AbstractConnection

from atomq.actions import BRIEF
from atomq.cluster import Nodes, named, unserved
from atomq.drive import drive
from atomq.keys import Place, hash_slot
from atomq.pool import Pool
from atomq.shared import Shared
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase


class Reach(Nodes[Pool]):
    """The nodes of a cluster, each with its pool, as they are asked."""

    def __init__(self, engine: EngineBase, make: Callable[[Place], Pool]) -> None:
        super().__init__(engine, make)
        self._asking = Shared[None]()

    def _known(self, slot: int | None) -> Place | None:
        """The node that serves a slot, unless that is in doubt; None for `slot`: any node."""
        place = self.map.owner(slot)
        return None if place in self.map.doubted else place

    def _place(self, slot: int | None) -> Place:
        """The node that serves a slot; None: some node that lives."""
        place = self._known(slot)
        if place is None:
            if self.map.is_due(time.monotonic()):
                self._asking(lambda: self._ask(slot))
            place = self.map.owner(slot)
        if place is None:
            raise unserved(slot)
        return place

    def _ask(self, slot: int | None) -> None:
        """Ask the nodes for the map: see `Nodes.asking`."""
        drive(self.asking(slot), lambda place: self._slots(place, self.map.within))
        for pool in self.gone():
            pool.close()

    def _slots(self, place: Place, within: float) -> Any:
        """What a node says to CLUSTER SLOTS, in so many seconds, over a connection for that."""
        raise NotImplementedError

    def _knock(self, place: Place) -> None:
        """See `Nodes.knock`."""
        with contextlib.suppress(*SERVER_ERRORS):
            if self.map.is_due(time.monotonic()):
                self._asking(lambda: self._ask(None))
            self._slots(place, BRIEF)
            self.map.doubted.discard(place)

    def one(self, call: Call[Any]) -> Any:
        """Send one call."""
        slot = call.queue.slot
        place = self._known(slot) or self._place(slot)
        try:
            reply = self.pool(place).one(call)
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error
        if isinstance(reply, Exception) or self.map.doubted:
            reply = self.map.judged(place, reply)
        return reply

    def fresh(self, channel: str | None = None) -> AbstractConnection:
        """A connection to the node that serves the key called like a channel; None: to some node.

        In a cluster a message to a channel reaches all nodes.
        """
        return self.fresh_at(self._place(None if channel is None else hash_slot(channel)))

    def fresh_at(self, place: Place) -> AbstractConnection:
        """A connection to this node."""
        try:
            return self.pool(place).fresh()
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        """Connections to wait for these lists: see `Nodes.opening`."""
        return drive(self.opening(keys), self.fresh)
