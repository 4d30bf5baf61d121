"""Which node of a cluster a call goes to, and what becomes known of the nodes on the way.

`reach.py` is made from this file: edit this, `make format` does the rest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import AbstractConnection

from atomq.actions import BRIEF
from atomq.cluster import Nodes, named, unserved
from atomq.drive_aio import drive
from atomq.keys import Place, hash_slot
from atomq.pool_aio import AsyncPool
from atomq.shared import AsyncShared
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase


class AsyncReach(Nodes[AsyncPool]):
    """The nodes of a cluster, each with its pool, as they are asked."""

    def __init__(self, engine: EngineBase, make: Callable[[Place], AsyncPool]) -> None:
        super().__init__(engine, make)
        self._asking = AsyncShared[None]()

    def _known(self, slot: int | None) -> Place | None:
        """The node that serves a slot, unless that is in doubt; None for `slot`: any node."""
        place = self.map.owner(slot)
        return None if place in self.map.doubted else place

    async def _place(self, slot: int | None) -> Place:
        """The node that serves a slot; None: some node that lives."""
        place = self._known(slot)
        if place is None:
            if self.map.is_due(time.monotonic()):
                await self._asking(lambda: self._ask(slot))
            place = self.map.owner(slot)
        if place is None:
            raise unserved(slot)
        return place

    async def _ask(self, slot: int | None) -> None:
        """Ask the nodes for the map: see `Nodes.asking`."""
        await drive(self.asking(slot), lambda place: self._slots(place, self.map.within))
        for pool in self.gone():
            await pool.close()

    async def _slots(self, place: Place, within: float) -> Any:
        """What a node says to CLUSTER SLOTS, in so many seconds, over a connection for that."""
        raise NotImplementedError

    async def _knock(self, place: Place) -> None:
        """See `Nodes.knock`."""
        with contextlib.suppress(*SERVER_ERRORS):
            if self.map.is_due(time.monotonic()):
                await self._asking(lambda: self._ask(None))
            await self._slots(place, BRIEF)
            self.map.doubted.discard(place)

    async def one(self, call: Call[Any]) -> Any:
        """Send one call."""
        slot = call.queue.slot
        place = self._known(slot) or await self._place(slot)
        try:
            reply = await self.pool(place).one(call)
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error
        if isinstance(reply, Exception) or self.map.doubted:
            reply = self.map.judged(place, reply)
        return reply

    async def fresh(self, channel: str | None = None) -> AbstractConnection:
        """A connection to the node that serves the key called like a channel; None: to some node.

        In a cluster a message to a channel reaches all nodes.
        """
        return await self.fresh_at(
            await self._place(None if channel is None else hash_slot(channel))
        )

    async def fresh_at(self, place: Place) -> AbstractConnection:
        """A connection to this node."""
        try:
            return await self.pool(place).fresh()
        except SERVER_ERRORS as error:
            self.map.doubt(place)
            raise named(error, place) from error

    async def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        """Connections to wait for these lists: see `Nodes.opening`."""
        return await drive(self.opening(keys), self.fresh)
