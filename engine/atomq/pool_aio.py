"""The connections of an asyncio engine to one server, and the calls that travel over them together.

Calls share a connection: what the tasks of an event loop say in one of its turns is sent at once,
and the server answers in that order. A call that is alone waits for no other. Each task gets its
own answer; one that is cancelled meanwhile does not get it, and no other task notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions as server

from atomq import connect, wires
from atomq.answer_aio import Answer
from atomq.commands_aio import AsyncCommands
from atomq.flight import SMALL, Load
from atomq.keys import Place
from atomq.line_aio import Asked, Line
from atomq.translating import SERVER_ERRORS, Unsent, connecting

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase

UNDER_WAY = 128  # calls over one connection; more of them take another
OPENED_AT_ONCE = 64  # connections; of thousands of tasks most find one that another is done with


class _Several:
    """Several commands of one caller, which gets all answers at once."""

    def __init__(self, many: int, future: asyncio.Future[list[Any]]) -> None:
        self._many = many
        self._future = future
        self._replies: list[Any] = []
        self.done = future.done
        self.set_exception = future.set_exception

    def set_result(self, reply: Any, /) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._many:
            self._future.set_result(self._replies)


class _Wanting(NamedTuple):
    """Commands that wait for a connection."""

    data: Sequence[bytes]
    asked: Asked
    looked_at: bool
    patience: float


class AsyncPool(AsyncCommands):
    """Connections to one server, shared by the tasks of one event loop.

    For a node of a cluster `place` is where it listens, and `late` is called when an answer is
    late: it may `abandon` the pool.
    """

    def __init__(
        self,
        engine: EngineBase,
        place: Place | None = None,
        late: Callable[[AsyncPool, Place], None] | None = None,
    ) -> None:
        super().__init__(engine, place, connect.async_connector)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.late = partial(late, self, place) if late is not None and place is not None else None
        self._most = engine.options.max_connections or 1 << 30
        self._lines: list[Line] = []  # that take calls
        self._occupied: set[Line] = set()  # by a large one
        self._leaving: set[Line] = set()  # they get their answers, and no more calls
        self._opening: set[asyncio.Task[Line]] = set()
        self._wanting: deque[_Wanting] = deque()
        self._wanting_large: deque[_Wanting] = deque()
        self._serving = False

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def one(self, call: Call[Any], within: float | None = None) -> Awaitable[Any]:
        """Send one call. The answer is the reply, or the server's error as its result.

        It raises redis-py's exceptions, and `Unsent`, where there is no answer: `within` so many
        seconds, if it is not to be sent again (see `over`).
        """
        data = call.packed()
        answer = Answer(self.loop or self._loop())
        large, looked_at = call.large or len(data) > SMALL, within is not None
        line = self._with_room(large, looked_at)
        if line is None:
            self._want((data,), answer, large, looked_at)
        else:
            line.say((data,), answer, large)
        return answer if within is None else _soon(answer, within)

    async def over(
        self, load: Load, *, looked_at: bool = False, within: float | None = None
    ) -> list[Any]:
        """See `AsyncCommands`."""
        if within is None:
            return await self._over(load, looked_at)
        try:
            async with asyncio.timeout(within):
                return await self._over(load, looked_at)
        except TimeoutError:
            raise server.TimeoutError("Timeout reading from socket") from None

    async def _over(self, load: Load, looked_at: bool) -> list[Any]:
        future, data = self._loop().create_future(), load.data
        asked: Asked = future if len(data) == 1 else _Several(len(data), future)
        large, patience = load.large, load.patience
        line = self._with_room(large, looked_at)
        if line is None:
            self._want(data, asked, large, looked_at, patience)
        else:
            line.say(data, asked, large, patience)
        replies = await future
        return [replies] if asked is future else replies

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        return self.loop

    def _want(
        self,
        data: Sequence[bytes],
        asked: Asked,
        large: bool,
        looked_at: bool,
        patience: float = 0.0,
    ) -> None:
        wanting = self._wanting_large if large else self._wanting
        wanting.append(_Wanting(data, asked, looked_at, patience))
        self._open_more()

    def _with_room(self, large: bool, looked_at: bool) -> Line | None:
        """The first that small calls travel over, or that is free; None: another may be opened."""
        for line in tuple(self._lines):
            if line.era != self.engine.era:
                line.leave()
            elif under_way := line.under_way:
                if under_way < UNDER_WAY and not large:
                    return line
            elif line.is_sound(looked_at):
                return line
            else:
                line.close()
        if not self._opening and self._count() >= self._most:
            return self._least_busy()
        return None

    @property
    def idles(self) -> bool:
        """Whether a call would open no connection."""
        return bool(self._lines)

    def give(self) -> wires.AsyncWire | wires.AsyncMemoryWire | None:
        """A connection that idles: the caller's own from here on. None: none does."""
        for line in tuple(self._lines):
            if line.era == self.engine.era and not line.under_way and line.is_sound(True):
                return line.give()
        return None

    def _least_busy(self) -> Line | None:
        return min(self._lines or self._occupied, key=lambda line: line.under_way, default=None)

    # ── how connections come and go ───────────────────────────────────────────────────────────

    def _count(self) -> int:
        taking = len(self._lines) + len(self._occupied)
        return taking + len(self._leaving) + len(self._opening)

    def _open_more(self) -> None:
        wanted = len(self._wanting_large) + -(-len(self._wanting) // UNDER_WAY)
        while len(self._opening) < min(wanted, OPENED_AT_ONCE) and self._count() < self._most:
            opening = asyncio.ensure_future(self._open())
            self._opening.add(opening)
            opening.add_done_callback(self._opened)

    async def _open(self) -> Line:
        era = self.engine.era
        return Line(self, await self.fresh(), era)

    def _opened(self, opening: asyncio.Task[Line]) -> None:
        self._opening.discard(opening)
        if opening.cancelled():  # by the end of the loop, where some still give back
            self.serve()
        elif (error := opening.exception()) is None:
            self._lines.append(opening.result())
            self.serve()
        elif not self._opening:
            self._cannot_open(error)

    def _cannot_open(self, error: BaseException) -> None:
        for wanting, large in ((self._wanting, False), (self._wanting_large, True)):
            while wanting:
                each, line = wanting.popleft(), self._least_busy()
                if each.asked.done():
                    continue
                if line is not None:
                    line.say(each.data, each.asked, large=large, patience=each.patience)
                else:
                    each.asked.set_exception(_unsent(error))

    def serve(self) -> None:
        """There may be room for what waits for a connection."""
        if self._serving:  # it has found a connection that was closed meanwhile
            return
        self._serving = True
        try:
            self._serve()
        finally:
            self._serving = False

    def _serve(self) -> None:
        for wanting, large in ((self._wanting, False), (self._wanting_large, True)):
            while wanting:
                each = wanting[0]
                if not each.asked.done():
                    line = self._with_room(large=large, looked_at=each.looked_at)
                    if line is None:
                        break
                    line.say(each.data, each.asked, large=large, patience=each.patience)
                wanting.popleft()
        if self.is_wanted:
            self._open_more()

    @property
    def is_wanted(self) -> bool:
        """Whether something waits for a connection."""
        return bool(self._wanting or self._wanting_large)

    def occupied(self, line: Line) -> None:
        """It takes no calls for now."""
        if line in self._lines:
            self._lines.remove(line)
            self._occupied.add(line)

    def rests(self, line: Line) -> None:
        """Nothing is under way over it."""
        if line in self._occupied:
            self._occupied.remove(line)
            self._lines.append(line)
        if self._wanting or self._wanting_large:
            self.serve()

    def left(self, line: Line, *, answers: bool) -> None:
        """A line takes no more calls; with `answers` some are to come, and then it is closed."""
        if line in self._lines:
            self._lines.remove(line)
        self._occupied.discard(line)
        if answers:
            self._leaving.add(line)
        else:
            self._leaving.discard(line)
            if self.is_wanted:
                self.serve()

    def broke(self) -> None:
        """One broke, or leads to a replica: what idles beside it is most likely dead too."""
        self.standing.verified = False
        for line in tuple(self._lines):
            if not line.under_way:
                line.close()

    def abandon(self, error: Exception) -> None:
        """Nothing that is under way will be answered: another node serves what this one did."""
        for line in (*self._lines, *self._occupied, *self._leaving):
            line.broke(error)

    async def close(self) -> None:
        """Close them; those that are in use once their answers have come."""
        for line in (*self._lines, *self._occupied):
            line.leave()
        await asyncio.sleep(0)  # for the loop to close the sockets

    def _leave_old(self) -> None:
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._leave_old_lines)

    def _leave_old_lines(self) -> None:
        for line in (*self._lines, *self._occupied):
            if line.era != self.engine.era:
                line.leave()


async def _soon(answer: Answer, within: float) -> Any:
    """An answer, or redis-py's `TimeoutError`: at half the cost of `asyncio.timeout`."""
    timer = asyncio.get_running_loop().call_later(within, _too_late, answer)
    try:
        return await answer
    finally:
        timer.cancel()


def _too_late(answer: Answer) -> None:
    if not answer.done():
        answer.set_exception(server.TimeoutError("Timeout reading from socket"))


def _unsent(error: BaseException) -> Exception:
    if isinstance(error, SERVER_ERRORS):
        return connecting(error)
    return error if isinstance(error, Exception) else Unsent(server.ConnectionError(str(error)))
