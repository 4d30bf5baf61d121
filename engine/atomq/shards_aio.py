"""The connections of an engine to a cluster, for tasks, asked by `reach_aio.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq.cluster import Share, named
from atomq.keys import Place
from atomq.pool_aio import AsyncPool
from atomq.reach_aio import AsyncReach
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.engine_base import EngineBase


class AsyncShards(AsyncReach):
    """The nodes of a cluster, for tasks: what takes time is a task of its own."""

    def __init__(self, engine: EngineBase) -> None:
        super().__init__(engine, lambda place: AsyncPool(engine, place, self._late))
        self._looking: asyncio.Task[None] | None = None
        self._knocking: dict[Place | None, asyncio.Task[None]] = {}

    def _late(self, pool: AsyncPool, place: Place) -> None:
        """An answer is late: see `AsyncPool`."""
        self.map.doubt(place)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._abandon(pool, place))

    async def _abandon(self, pool: AsyncPool, place: Place) -> None:
        if await self._is_replaced(place):
            text = "Timeout reading from socket: another node serves its slots"
            pool.abandon(server.TimeoutError(text))

    def knock(self, place: Place) -> None:
        """See `Nodes`: a task of its own does it. The map is not kept waiting by the node."""
        for whose, find_out in ((None, self._look_again), (place, partial(self._knock, place))):
            known = self._knocking.get(whose)
            if known is None or known.done():
                self._knocking[whose] = asyncio.ensure_future(find_out())

    async def _send(
        self, shares: Sequence[Share], replies: list[Any], within: float | None
    ) -> None:
        sends = [self._send_one(share, replies, within) for share in shares]
        if len(sends) == 1:
            await sends[0]
        else:
            await asyncio.gather(*sends)

    async def _send_one(self, share: Share, replies: list[Any], within: float | None) -> None:
        pool, looked_at = self.pool(share.place), within is not None
        try:
            heard = await pool.over(share, looked_at=looked_at, within=within)
        except SERVER_ERRORS as error:
            self.map.doubt(share.place)
            share.failed(named(error, share.place), replies)
        else:
            share.answered(heard, self.map, replies)

    async def close(self) -> None:
        """Close what is not in use, to all nodes."""
        for knocking in self._knocking.values():
            knocking.cancel()
        await super().close()
