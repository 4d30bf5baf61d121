"""The connections of an asyncio engine to a cluster: the twin of `shards.py`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions as server

from atomq import connect
from atomq.actions import BRIEF, WAYS, Elsewhere, NoAnswer
from atomq.cluster import Share, check_all, key_of, named, no_answers
from atomq.conversation import packed
from atomq.keys import Place, hash_slot
from atomq.opening_aio import connected, heeded
from atomq.pool_aio import AsyncPool
from atomq.reach_aio import AsyncReach
from atomq.translating import SERVER_ERRORS

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase


class AsyncShards(AsyncReach):
    """What `AsyncPool` is for one server. See there for what is not said here."""

    def __init__(self, engine: EngineBase) -> None:
        super().__init__(engine, lambda place: AsyncPool(engine, place, self._late))
        self._looking: asyncio.Task[None] | None = None
        self._knocking: dict[Place, asyncio.Task[None]] = {}

    # ── which node ────────────────────────────────────────────────────────────────────────────

    async def _slots(self, place: Place, within: float) -> Any:
        connection = connect.async_connector(self._engine.address.of_node(*place))()
        try:
            async with asyncio.timeout(within):
                await connected(connection)
                await heeded(connection.send_command("CLUSTER", "SLOTS", check_health=False))
                return await heeded(connection.read_response())
        finally:
            await connection.disconnect(nowait=True)

    def _late(self, pool: AsyncPool, place: Place) -> None:
        """An answer is late: see `AsyncPool`."""
        self.map.doubt(place)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look(pool, place))

    async def _look(self, pool: AsyncPool, place: Place) -> None:
        if self.map.is_due(time.monotonic()):
            with contextlib.suppress(*SERVER_ERRORS):
                await self._asking(lambda: self._ask(None))
        if place not in self.map.primaries:
            text = "Timeout reading from socket: another node serves its slots"
            pool.abandon(server.TimeoutError(text))

    def knock(self, place: Place) -> None:
        """See `Nodes`: a task of its own does it."""
        known = self._knocking.get(place)
        if known is None or known.done():
            self._knocking[place] = asyncio.ensure_future(self._knock(place))

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    async def send(
        self,
        calls: Sequence[Call[Any]],
        loads: Sequence[Call[Any]] = (),
        _within: float | None = None,
    ) -> list[Any]:
        """Send several, to all nodes at once. `NoAnswer` stands for what a node did not answer."""
        replies: list[Any] = [None] * (len(loads) + len(calls))
        shares: dict[Place, Share] = {}
        for at, call in enumerate((*loads, *calls)):
            try:
                place = call.place or await self._place(call.queue.slot)
            except SERVER_ERRORS as error:
                replies[at] = NoAnswer(error)
            else:
                shares.setdefault(place, Share(place)).say(call, at, load=at < len(loads))
        sends = [self._send(share, replies) for share in shares.values()]
        if len(sends) == 1:
            await sends[0]
        else:
            await asyncio.gather(*sends)
        return no_answers(replies)

    async def _send(self, share: Share, replies: list[Any]) -> None:
        try:
            heard = await self.pool(share.place).over(share)
        except SERVER_ERRORS as error:
            self.map.doubt(share.place)
            share.failed(named(error, share.place), replies)
        else:
            share.answered(heard, self.map, replies)

    async def get(self, key: str) -> Any:
        """GET."""
        return await self._command(("GET", key), large=False)

    async def command(self, args: Sequence[Any]) -> Any:
        """Any command, to the node of its first key; to some node, if it has none."""
        return await self._command(args, large=True)

    async def _command(self, args: Sequence[Any], *, large: bool) -> Any:
        key = key_of(args)
        slot = None if key is None else hash_slot(key)
        head, *rest = args
        data = packed((*str(head).split(), *rest))
        asked: Place | None = None
        reply: Any = None
        for _ in range(WAYS):
            place = asked or await self._place(slot)
            share = Share(place, large=large)
            share.say_packed(data, 0, asking=asked is not None)
            try:
                heard = await self.pool(place).over(share, looked_at=True)
            except SERVER_ERRORS as error:
                self.map.doubt(place)
                raise named(error, place) from error
            reply = self.map.judged(place, heard[-1])
            if not isinstance(reply, Elsewhere):
                break
            asked = reply.place
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def lengths(self, keys: Sequence[str]) -> list[Any]:
        """LLEN of each list, soon or not at all; None, or an error, where it is not known."""
        replies: list[Any] = [None] * len(keys)
        await self._send_briefly(self.lengths_of(keys), replies)
        return replies

    async def _send_briefly(self, shares: Sequence[Share], replies: list[Any]) -> None:
        """To all nodes at once. One that does not answer soon is in doubt."""

        async def send(share: Share) -> None:
            try:
                async with asyncio.timeout(BRIEF):
                    await self._send(share, replies)
            except TimeoutError as error:
                self.map.doubt(share.place)
                share.failed(named(error, share.place), replies)

        await asyncio.gather(*map(send, shares))

    # ── connections of the caller's own ───────────────────────────────────────────────────────

    async def unblock(self, lines: Sequence[tuple[Place | None, int]]) -> None:
        """CLIENT UNBLOCK of each connection. See `Shards`."""
        replies: list[Any] = [None] * len(lines)
        await self._send_briefly(self.unblocking(lines), replies)
        check_all(replies)

    async def close(self) -> None:
        """Close what is not in use, to all nodes."""
        for knocking in self._knocking.values():
            knocking.cancel()
        for pool in self.pools():
            await pool.close()
