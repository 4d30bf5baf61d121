"""The connections of an engine to one server, for threads: each call takes one of its own.

`pool_aio.py` is the twin for tasks, whose calls share a connection. Of a cluster each node has a
pool: see `shards.py`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import connect, fork, wires
from atomq.actions import Replaced
from atomq.commands import Commands
from atomq.conversation import packed
from atomq.flight import Bare, Load
from atomq.keys import Place
from atomq.line import Line, converse, hung_up
from atomq.pool_base import FRESH, LATE
from atomq.retrying import leads_astray
from atomq.translating import SERVER_ERRORS, connecting

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase

LOOK = 0.25  # seconds between two looks, during a WAIT, whether there is another master


class _Places:
    """At most so many connections at a time. A thread that waits has none yet.

    One that has, and comes again, is in a finalizer, which Python runs at any moment: it must not
    wait for itself.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._threads: list[int] = []
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self._free <= 0 and me not in self._threads:
                self._changed.wait()
            self._free -= 1
            self._threads.append(me)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._free += 1
            self._threads.remove(threading.get_ident())
            self._changed.notify()


class Pool(Commands):
    """Idle connections, last in first out; any number of threads takes and puts back.

    Threads do not share one, as tasks do (`pool_aio.py`): of eight threads one would send and read
    for those that wait, and wake them. That takes twice the CPU of a read by each, and less is put.

    For a node of a cluster `place` is where it listens, and `late` is called when an answer is
    late: it raises redis-py's `TimeoutError` where another node serves what this one did.
    """

    def __init__(
        self,
        engine: EngineBase,
        place: Place | None = None,
        late: Callable[[Place], None] | None = None,
    ) -> None:
        super().__init__(engine, place, connect.connector)
        self._late = partial(late, place) if late is not None and place is not None else None
        self._late_after = min(LATE, engine.options.socket_timeout or LATE)
        self._begin()

    def _begin(self) -> None:
        self._idle: deque[Line] = deque()
        self._replicas: dict[Place, Pool] = {}
        most = self.engine.options.max_connections
        self._places = _Places(most) if most else None

    def one(self, call: Call[Any], within: float | None = None) -> Any:
        """Send one call; the reply, or the server's error. Raises where there is no answer.

        `within`: so many seconds, of a call that is not to be sent again: see `over`.
        """
        data, line = call.packed(), None
        if self._places is None:
            try:  # noqa: SIM105 - a context manager takes longer than the rest
                line = self._idle.pop()
            except IndexError:
                pass
        is_fresh = line is not None and time.monotonic() - line.since < FRESH
        if line is None or not is_fresh or not (self._late is None or line.impatient):
            return self._slowly(data, line, within)
        if within is not None and (not line.impatient or hung_up(line)):
            return self._slowly(data, line, within)
        # As nearly always: over a connection that was used a moment ago. What follows is `_over` of
        # one command, without what only others need.
        era = self.engine.era
        try:
            line.wire.send(data)
            try:
                reply = line.talk.sole(line.wire.receive)
            except server.TimeoutError:
                if not line.impatient:
                    raise
                reply = self._late_reply(line, within)
        except BaseException as error:
            self._broke(line, error)
            raise
        if isinstance(reply, Exception) or era != self.engine.era:
            self._rests(line, era, (reply,))
        else:
            line.since = time.monotonic()
            self._idle.append(line)
        return reply

    def _slowly(self, data: bytes, line: Line | None, within: float | None) -> Any:
        """The same over a connection that may have to be looked at, opened or waited for."""
        if line is not None:
            self._idle.append(line)
        return self.over(Bare((data,)), looked_at=within is not None, within=within)[0]

    def _late_reply(self, line: Line, within: float | None) -> Any:
        """The reply to one command that was waited for until it was late."""
        wait = self._waits(line, 0.0, within, late_by=self._late_after)

        def receive() -> Any:
            wait()
            return line.wire.receive()

        return line.talk.sole(receive)

    def commands(self, many: Sequence[Sequence[Any]], within: float | None = None) -> list[Any]:
        """Several commands, in one go. What came instead of a reply stands for it."""
        load = Bare([packed(args) for args in many])
        return self.over(load, looked_at=True, within=within)

    def fresh_at(self, _place: Place) -> AbstractConnection:
        """The same: there is one server."""
        return self.fresh()

    def nodes(self) -> list[tuple[str, Pool]]:
        """Each server that runs scripts, with its name."""
        return [(self.engine.address.safe_url, self)]

    def replicas(self) -> list[tuple[str, Pool]]:
        """Those of the master behind Sentinels, as these name them now; else none is known."""
        if self.engine.address.kind != "sentinel":
            return []
        places = connect.replicas(self.engine.address)
        self._replicas = {p: self._replicas.get(p) or Pool(self.engine, p) for p in places}
        return [("{}:{}".format(*place), pool) for place, pool in self._replicas.items()]

    def close(self) -> None:
        """Close what idles; what is in use is closed, or idles, when its answer has come."""
        for pool in list(self._replicas.values()):
            pool.close()
        with contextlib.suppress(IndexError):  # several threads may close at once
            while True:
                self._idle.pop().wire.close()

    def _leave_old(self) -> None:
        self.close()

    def forget(self) -> None:
        """Begin anew in a child process."""
        self.standing.verified, self.standing.verifying = False, None
        fork.leak(self._idle, [pool._idle for pool in self._replicas.values()])
        self._begin()

    @property
    def idles(self) -> bool:
        """Whether a call would open no connection."""
        return bool(self._idle)

    def give(self) -> wires.Wire | wires.MemoryWire | None:
        """A connection that idles: the caller's own from here on. None: none does."""
        with contextlib.suppress(IndexError):
            while True:
                line = self._idle.pop()
                if not hung_up(line):
                    return line.wire
                line.wire.close()
        return None

    def _take(self, looked_at: bool, within: float | None) -> Line:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                break
            rested = time.monotonic() - line.since
            if rested < FRESH and not looked_at:
                return line
            if rested < (self.engine.options.health_check_interval or 1e9) and not hung_up(line):
                return line
            line.wire.close()
        wire = wires.taken(self.fresh(within=within))
        return Line(wire, self._late_after if self._late is not None else None)

    def over(
        self,
        load: Load,
        *,
        looked_at: bool = False,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """See `Commands`. `meanwhile` is called once all is sent."""
        if self._places is None:
            return self._over(load.data, looked_at, load.patience, within, meanwhile)
        with self._places:
            return self._over(load.data, looked_at, load.patience, within, meanwhile)

    def _over(
        self,
        data: Sequence[bytes],
        looked_at: bool = False,
        patience: float = 0.0,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        era = self.engine.era
        try:
            line = self._take(looked_at, within)
        except SERVER_ERRORS as error:
            raise connecting(error) from error
        try:
            wait = late = None
            if patience or within is not None or (self._late is not None and not line.impatient):
                wait = self._waits(line, patience, within)
            elif line.impatient:
                late = partial(self._waits, line, 0.0, None, late_by=self._late_after)
            replies = converse(line, data, wait, meanwhile, late)
        except BaseException as error:
            self._broke(line, error)
            raise
        self._rests(line, era, replies)
        return replies

    def _broke(self, line: Line, error: BaseException) -> None:
        line.wire.close()  # if this was interrupted an answer may be on its way
        if isinstance(error, SERVER_ERRORS):
            self.close()  # what idles beside it is most likely dead too
            self.standing.verified = False

    def _rests(self, line: Line, era: int, replies: Sequence[Any]) -> None:
        """All is answered; it was taken in this `era`."""
        astray = era != self.engine.era
        for reply in replies:
            if isinstance(reply, Exception):
                astray = astray or leads_astray(reply)
        if astray:
            line.wire.close()
            self.close()
            self.standing.verified = False
        else:
            line.since = time.monotonic()
            self._idle.append(line)

    def _waits(
        self, line: Line, patience: float, within: float | None, *, late_by: float = 0.0
    ) -> Callable[[], None]:
        """Wait for an answer that may take its time, but not once another server is to be asked.

        `late_by`: the first has been waited for so long.
        """
        wire, moves, late = line.wire, self.engine.moves, self._late if within is None else None
        every, longest = LOOK, patience
        if late is not None:
            every, longest = LATE, patience + (self.engine.options.socket_timeout or 1e9)
        if within is not None:
            every = longest = min(within, self.engine.options.socket_timeout or 1e9)

        def wait() -> None:
            nonlocal late_by
            if not late_by and wire.readable(every):
                return
            until, late_by = time.monotonic() + longest - (late_by or every), 0.0
            while True:
                if self.engine.moves != moves:
                    raise Replaced("another server has become the master")
                if late is not None:
                    late()
                left = until - time.monotonic()
                if left <= 0 and (late is not None or within is not None):
                    raise server.TimeoutError("Timeout reading from socket")
                if left <= 0 or wire.readable(min(every, left)):
                    return

        return wait
