"""One connection that the tasks of an event loop share, and the calls under way over it."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection

from atomq import wires
from atomq.actions import Replaced
from atomq.conversation import Conversation
from atomq.pool_base import FRESH, LATE
from atomq.retrying import leads_astray
from atomq.translating import Unsent

if TYPE_CHECKING:
    from atomq.pool_aio import AsyncPool


class Asked(Protocol):
    """What an answer is for, as a future is."""

    def done(self) -> bool:
        """Whether there is an answer, or no task waits for it any more."""
        ...

    def set_result(self, reply: Any, /) -> None:
        """The answer, an exception of redis-py if it is an error."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There is no answer."""
        ...


class Line:
    """One connection, and the calls that are under way over it."""

    def __init__(self, pool: AsyncPool, connection: AbstractConnection, era: int) -> None:
        self.era = era
        self._moves = pool.engine.moves
        self._pool = pool
        self._soon = asyncio.get_running_loop().call_soon
        self._talk = Conversation()
        self._pending = self._talk.pending
        self._unsent: list[tuple[bytes, Asked]] = []
        self._alone = True  # the last time it was written to, one call was
        self._leaving = False
        self._heard = time.monotonic()
        options = pool.engine.options
        self._trusted = options.health_check_interval or 1e9
        self._patience = options.socket_timeout
        self._longer = 0.0  # the answers that are under way may take so many seconds more
        self._alarmed_after = LATE if pool.late is not None else self._patience or 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._wire = wires.taken_async(connection, self._received, self.broke)

    @property
    def under_way(self) -> int:
        """How many calls are not answered yet."""
        return len(self._pending) + len(self._unsent)

    def is_sound(self, looked_at: bool) -> bool:
        """Whether it can be used after a rest. The socket is looked at: the loop may be late."""
        rested = time.monotonic() - self._heard
        if rested >= self._trusted:
            return False
        if rested < FRESH and not looked_at:
            return True
        number = self._wire.fileno()
        return number < 0 or not readable(number)  # memory:// has none

    def say(self, data: Sequence[bytes], asked: Asked, large: bool, patience: float = 0.0) -> None:
        """Send commands, each of which answers `asked`, by `patience` seconds later than others."""
        if large:
            self._pool.occupied(self)
        if patience:
            self._longer += patience
        rested = not (self._unsent or self._pending)
        if rested and self._alarmed_after:
            self._heard = time.monotonic()
            if self._alarm is None:
                self._set_alarm(self._alarmed_after)
        if rested and self._alone:
            self._wire.write(self._talk.say_packed(data, asked))
            return
        if not self._unsent:
            self._soon(self._send)
        self._unsent += [(each, asked) for each in data]

    def _send(self) -> None:
        """What was said in this turn of the loop goes together."""
        unsent, self._unsent = self._unsent, []
        self._alone = len(unsent) == 1
        data = [self._talk.say(each, asked) for each, asked in unsent if not asked.done()]
        if data:
            self._wire.write(b"".join(data))
        elif not self._pending:
            self._rest()

    def _received(self, data: Any) -> None:
        self._heard = time.monotonic()
        answers: list[tuple[Asked, Any]] = []
        led_astray = False
        try:
            self._talk.take(data, answers)
        except server.RedisError as error:
            _answer(answers)
            self.broke(error)
            return
        for _, reply in answers:
            if isinstance(reply, Exception) and leads_astray(reply):
                led_astray = True
        if led_astray:
            self._pool.broke()
            self.leave()
        if not (self._pending or self._unsent):
            self._rest()
        elif self._pool.is_wanted:
            self._pool.serve()
        _answer(answers)  # last: what is said next finds the line as it is now

    def _rest(self) -> None:
        self._longer = 0.0
        if self._leaving:
            self.close()
        else:
            self._pool.rests(self)

    def _set_alarm(self, seconds: float) -> None:
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if not self.under_way:
            return
        silent = time.monotonic() - self._heard
        patience = self._patience + self._longer if self._patience else 1e9
        if silent >= patience:
            self.broke(server.TimeoutError("Timeout reading from socket"))
            return
        if self._pool.late is not None and silent >= LATE:
            self._pool.late()
            self._set_alarm(min(LATE, patience - silent))
        elif self._pool.late is None:
            self._set_alarm(patience - silent)
        else:
            self._set_alarm(self._alarmed_after - silent)

    def broke(self, error: Exception) -> None:
        """The connection is gone: nothing of what is under way will be answered."""
        unsent, self._unsent = self._unsent, []
        lost = self._talk.broken()
        self.close()
        self._pool.broke()
        for asked in lost:
            if not asked.done():
                asked.set_exception(type(error)(*error.args))
        for _, asked in unsent:
            if not asked.done():
                asked.set_exception(Unsent(error))

    def leave(self) -> None:
        """Take no more calls, and close once those that are under way are answered.

        What waits for a confirmation of a server that is the master no more waits in vain.
        """
        self._leaving = True
        if self._longer and self._moves != self._pool.engine.moves:
            self.broke(Replaced("another server has become the master"))
        elif any(not asked.done() for asked in self._talk.asked) or self._unsent:
            self._pool.left(self, answers=True)
        else:
            self.close()

    def give(self) -> wires.AsyncWire | wires.AsyncMemoryWire:
        """Its wire, for another one to hear: nothing is under way here, and nothing will be."""
        self._end()
        return self._wire

    def close(self) -> None:
        """Close it now."""
        self._wire.close()
        self._end()

    def _end(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._pool.left(self, answers=False)


def _answer(answers: Sequence[tuple[Asked, Any]]) -> None:
    for asked, reply in answers:
        if not asked.done():
            asked.set_result(reply)


def readable(number: int) -> bool:
    """Whether an idle connection was closed by the server: nothing else makes it readable."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(number, select.POLLIN)
        return bool(poller.poll(0))
    return bool(select.select([number], [], [], 0)[0])
