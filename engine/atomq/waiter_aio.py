"""What a consumer of a task waits on: the asyncio twin of `waiter.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection

from atomq import waiting, wires
from atomq.calls import Call, Claimed
from atomq.cancellation import PROMPT
from atomq.drive_aio import drive
from atomq.flows import Answer
from atomq.listening_aio import Ear
from atomq.translating import SERVER_ERRORS, translated
from atomq.waiting import Line, Waiting

if TYPE_CHECKING:
    from atomq.aio import AsyncEngine

T = TypeVar("T")
MOST_HEARD = 64  # pieces that came and were not taken; then no more is read


class AsyncWaiter:
    """The asyncio twin of `Waiter`. It belongs to one task at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting = Waiting(engine, listens=engine.address.kind != "memory")
        self._era = engine.era
        self._ear: Ear | None = None
        self._busy = 0  # tasks that are here: the one that waits, and one whose call travels
        self._carries: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._waiting.lines) or self._ear is not None

    async def wait(
        self,
        keys: tuple[str, ...],
        seconds: float,
        ahead: Call[Claimed] | None = None,
        *,
        lasts: float = 0.0,
        channels: Mapping[str, str] | None = None,
    ) -> Answer:
        """See `flows.Wait`."""
        rules = self._waiting.wait(keys, seconds, ahead, lasts=lasts, channels=channels)
        return await self._alone(rules)

    async def withdraw(self) -> list[str] | Claimed:
        """See `flows.Withdraw`."""
        return await self._alone(self._waiting.withdraw())

    async def _alone(self, rules: waiting.Actions[T]) -> T:
        """Drive to the end, while no call of another task travels."""
        self._busy += 1
        try:
            if self._carries is not None:
                await asyncio.wait((self._carries,))
            return await drive(rules, self._perform)
        finally:
            self._busy -= 1

    async def carry(
        self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]]
    ) -> list[Any] | None:
        """See `Waiting.carry`. Any task may call it; None also if another one is here."""
        return await self._beside(lambda: self._waiting.carry(calls, loads), None)

    async def lengths(self, names: Collection[str]) -> dict[str, Any]:
        """See `Waiting.lengths`. Any task may call it; nothing also if another one is here."""
        return await self._beside(lambda: self._waiting.lengths(names), {})

    async def _beside(self, rules: Callable[[], waiting.Actions[T]], otherwise: T) -> T:
        if self._busy or self._carries is not None:
            return otherwise
        self._carries = asyncio.get_running_loop().create_future()
        try:
            return await drive(rules(), self._perform)
        finally:
            self._carries.set_result(None)
            self._carries = None

    async def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            if self._era != self._engine.era:
                self._hang_up()
                self._era = self._engine.era
            listener, ear = self._engine.listener(channel), self._ear
            if ear is None or ear.channel != channel or ear.listener is not listener:
                self._hang_up()
                ear = self._ear = await listener.listen(channel)
            if seconds:
                return await ear.next(seconds)
        except server.NoPermissionError as error:
            raise translated(error) from error
        except SERVER_ERRORS:
            self._hang_up()
            await asyncio.sleep(min(seconds, 0.05))
        return None

    async def close(self) -> None:
        """Close the connections. A token that was not read is lost; others notice within 1.2 s."""
        self._engine.carriers.discard(self)
        await self._alone(self._waiting.close())
        self._hang_up()

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.listener.leave(ear)

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    async def _perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Send(line, data):
                line.wire.write(data)
            case waiting.Hear(lines, seconds):
                return await _hear(lines, seconds)
            case waiting.Unblock(blocked):
                return await self._engine._pool.unblock(blocked)
            case waiting.Open(names):
                if self._engine.slots is not None:
                    self._engine.carriers.add(self)
                found = await self._engine._pool.blocking(names)
                return [Line(_Heard(connection), some) for connection, some in found]
            case waiting.Close(lines):
                for line in lines:
                    line.wire.close()
            case waiting.Rest(seconds):
                await asyncio.sleep(seconds)
        return None


class _Heard:
    """A wire, and what came over it and was not taken yet: not more than `MOST_HEARD` pieces.

    A consumer that works for hours hears all the while of the looks of others. What it does not
    take stays with the server, which closes the connection of one that takes nothing for too long.
    """

    def __init__(self, connection: AbstractConnection | wires.AsyncWire) -> None:
        self._came: list[Any] = []
        self._error: Exception | None = None
        self.awaited: asyncio.Future[None] | None = None
        self._wire: wires.AsyncWire | wires.AsyncMemoryWire
        if isinstance(connection, wires.AsyncWire):  # of the pool
            self._wire = connection
            connection.received, connection.lost = self._received, self._lost
        else:
            self._wire = wires.taken_async(connection, self._received, self._lost)
        self.hello, self.node = self._wire.hello, self._wire.node
        self.write, self.close = self._wire.write, self._wire.close

    @property
    def has_come(self) -> bool:
        """Whether something came, or it broke."""
        return bool(self._came) or self._error is not None

    def take(self) -> list[Any]:
        """What came. Raises what broke it, once all that came before was taken."""
        came, self._came = self._came, []
        if len(came) >= MOST_HEARD:
            self._wire.read(True)
        if not came and self._error is not None:
            raise self._error
        return came

    def _received(self, data: Any) -> None:
        self._came.append(data)
        if len(self._came) == MOST_HEARD:
            self._wire.read(False)
        self._wake()

    def _lost(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self.awaited is not None and not self.awaited.done():
            self.awaited.set_result(None)


async def _hear(lines: Sequence[Line], seconds: float | None) -> Line | None:
    if not any(line.wire.has_come for line in lines) and seconds != 0:
        loop = asyncio.get_running_loop()
        awaited = loop.create_future()
        for line in lines:
            line.wire.awaited = awaited
        timer = loop.call_later(PROMPT if seconds is None else seconds, _give_up, awaited)
        try:
            await awaited
        finally:
            timer.cancel()
    for line in lines:
        if line.wire.has_come:
            for data in line.wire.take():
                line.talk.feed(data)
            return line
    if seconds is None:
        raise server.TimeoutError("Timeout reading from socket")
    return None


def _give_up(awaited: asyncio.Future[None]) -> None:
    if not awaited.done():
        awaited.set_result(None)
