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
from atomq.actions import BRIEF, Replaced
from atomq.conversation import Conversation, packed
from atomq.errors import ServerTooOld
from atomq.flight import Flight
from atomq.keys import Place
from atomq.outage import Standing, outage_of
from atomq.retrying import leads_astray
from atomq.translating import SERVER_ERRORS, connecting

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase

FRESH = 0.5  # seconds for which a connection that was used is not looked at before it is used again
LOOK = 0.25  # seconds between two looks, during a WAIT, whether there is another master
LATE = 0.5  # seconds after which an answer is late enough to ask whether another node serves now
HANDSHAKE = 0.6  # seconds for the first try to connect to a node of a cluster
LONGER = 1.05  # times as many for the next one: meanwhile another node may come to serve its slots


def check_version(hello: Any) -> None:
    """Refuse a server that is too old, by its answer to HELLO. Raises `ServerTooOld`."""
    if not isinstance(hello, dict):
        return
    known = {_text(name): _text(value) for name, value in hello.items()}
    name, version = known.get("server", ""), known.get("version", "")
    least = {"redis": (6, 2), "valkey": (7, 2)}.get(name, (0,))
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return
    if found and found < least:
        needed = ".".join(map(str, least))
        raise ServerTooOld(f"this is {name} {version}: atomq needs {needed} or newer")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# ── connections to one server ─────────────────────────────────────────────────────────────────


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


class _Line:
    """One connection: what is sent over it, and the answers."""

    __slots__ = ("impatient", "since", "talk", "wire")

    def __init__(
        self, wire: wires.Wire | wires.MemoryWire, late_after: float | None = None
    ) -> None:
        self.wire = wire
        self.impatient = late_after is not None and wire.be_impatient(late_after)
        """Whether an answer that is late ends a read: no thread has to look for it before."""
        self.talk = Conversation()
        self.talk.feed(wire.read_before)
        self.since = 0.0
        """When it was used last (monotonic)."""


class Pool:
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
        self._engine = engine
        self._late = late
        self._late_after = min(LATE, engine.options.socket_timeout or LATE)
        self._place = place or ("", 0)
        address, outage = engine.address, engine.outage
        if place is not None:
            address, outage = address.of_node(*place), outage_of("{}:{}".format(*place))
        self.standing = Standing(outage)
        self._handshake = HANDSHAKE if place else None
        self._connector = connect.connector(address, self)
        self._begin()

    def _begin(self) -> None:
        self._idle: deque[_Line] = deque()
        most = self._engine.options.max_connections
        self._places = _Places(most) if most else None

    def one(self, call: Call[Any]) -> Any:
        """Send one call; the reply, or the server's error. Raises where there is no answer."""
        data = (call.packed(),)
        if self._places is None:  # as by default
            return self._over(data)[0]
        return self.over(data)[0]

    def send(
        self,
        calls: Sequence[Call[Any]],
        loads: Sequence[Call[Any]] = (),
        within: float | None = None,
    ) -> list[Any]:
        """The same for several in one go; before them, SCRIPT LOAD of the scripts of `loads`."""
        flight = Flight(calls, loads)
        return flight.replies(self.over(flight.data, patience=flight.patience, within=within))

    def hopeless(self, _slot: int) -> Exception | None:
        """Why a brief call is not worth a try now."""
        return None

    def standing_of(self, _call: Call[Any]) -> Standing:
        """What is known of the server that carries out a call."""
        return self.standing

    def everywhere(self) -> list[Standing]:
        """What is known of each server."""
        return [self.standing]

    def command(self, args: Sequence[Any]) -> Any:
        """Any command. It is not sent again, so the connection is looked at first."""
        head, *rest = args
        reply = self.over([packed((*str(head).split(), *rest))], looked_at=True)[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def commands(self, many: Sequence[Sequence[Any]], within: float | None = None) -> list[Any]:
        """Several commands, in one go. What came instead of a reply stands for it."""
        return self.over([packed(args) for args in many], looked_at=True, within=within)

    def lengths(self, keys: Sequence[str]) -> list[Any]:
        """LLEN of each list, in one go, soon or not at all."""
        return self.over([packed(("LLEN", key)) for key in keys], looked_at=True, within=BRIEF)

    def fresh(
        self, _channel: str | None = None, *, within: float | None = None
    ) -> AbstractConnection:
        """A connection of the caller's own, connected (`within` so many seconds)."""
        connection = self._connector()
        if within is not None or self._handshake is not None:
            self._connect(connection, min(within or 1e9, self._handshake or 1e9))
        else:
            connection.connect()
        wires.opened.add(connection)
        check_version(getattr(connection, "handshake_metadata", None))
        return connection

    def fresh_at(self, _place: Place) -> AbstractConnection:
        """The same: there is one server."""
        return self.fresh()

    def _connect(self, connection: AbstractConnection, within: float) -> None:
        # A node that stands still takes connections and does not answer; another one may soon
        # serve what it did.
        patience = self._engine.options.socket_timeout
        connects = self._engine.options.socket_connect_timeout
        longest = max(patience or 1e9, connects or 1e9)
        wires.hurry(connection, min(within, longest))
        try:
            connection.connect()
        except (server.TimeoutError, OSError):
            if self._handshake is not None:
                self._handshake = min(LONGER * self._handshake, longest)
            raise
        if self._handshake is not None:
            self._handshake = HANDSHAKE
        wires.relax(connection, patience)

    def blocking(self, keys: Sequence[str]) -> list[tuple[AbstractConnection, list[str]]]:
        """Connections to wait for these lists, each with those that are waited for on it."""
        return [(self.fresh(), list(keys))]

    def unblock(self, lines: Sequence[tuple[Place | None, int]]) -> None:
        """CLIENT UNBLOCK of each connection: its node, and its number."""
        for _, client_id in lines:
            self.command(("CLIENT UNBLOCK", client_id))

    def nodes(self) -> list[tuple[str, Pool]]:
        """Each server that runs scripts, with its name."""
        return [(self._engine.address.safe_url, self)]

    def close(self) -> None:
        """Close what idles; what is in use is closed, or idles, when its answer has come."""
        with contextlib.suppress(IndexError):  # several threads may close at once
            while True:
                self._idle.pop().wire.close()

    def switched(self) -> None:
        """There is another master: what is in use is closed when its answer has come."""
        self._engine.moves += 1
        self._engine.era += 1
        self.standing.verified = False
        self.close()

    def rotated(self) -> None:
        """There are other credentials: what is in use is closed when its answer has come."""
        self._engine.era += 1
        self.close()

    def forget(self) -> None:
        """Begin anew in a child process."""
        self.standing.verified, self.standing.verifying = False, None
        fork.leak(self._idle)
        self._begin()

    def _take(self, *, looked_at: bool, within: float | None) -> _Line:
        now = time.monotonic()
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                break
            rested = now - line.since
            if rested < FRESH and not looked_at:
                return line
            if rested < (self._engine.options.health_check_interval or 1e9) and not _hung_up(line):
                return line
            line.wire.close()
        wire = wires.taken(self.fresh(within=within))
        return _Line(wire, self._late_after if self._late is not None else None)

    def over(
        self,
        data: Sequence[bytes],
        *,
        looked_at: bool = False,
        patience: float = 0.0,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """The replies to packed commands, over a connection that idles, or a new one.

        `looked_at`: what is sent is not sent again. The replies may take `patience` seconds more
        than others may, or have to come `within` so many. `meanwhile` is called once all is sent.
        """
        if self._places is None:
            return self._over(data, looked_at, patience, within, meanwhile)
        with self._places:
            return self._over(data, looked_at, patience, within, meanwhile)

    def _over(
        self,
        data: Sequence[bytes],
        looked_at: bool = False,
        patience: float = 0.0,
        within: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        era = self._engine.era
        try:
            line = self._take(looked_at=looked_at, within=within)
        except SERVER_ERRORS as error:
            raise connecting(error) from error
        try:
            if line.impatient and not patience and within is None:
                late = partial(self._waits, line, 0.0, None, late_by=self._late_after)
                replies = _converse(line, data, None, meanwhile, late)
            elif patience or within is not None or self._late is not None:
                replies = _converse(line, data, self._waits(line, patience, within), meanwhile)
            else:
                replies = _converse(line, data)
        except SERVER_ERRORS:
            line.wire.close()
            self.close()  # what idles beside it is most likely dead too
            self.standing.verified = False
            raise
        except BaseException:
            line.wire.close()  # interrupted: an answer may be on its way
            raise
        astray = era != self._engine.era
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
        return replies

    def _waits(
        self, line: _Line, patience: float, within: float | None, *, late_by: float = 0.0
    ) -> Callable[[], None]:
        """Wait for an answer that may take its time, but not once another server is to be asked.

        `late_by`: the first has been waited for so long.
        """
        wire, moves, late = line.wire, self._engine.moves, self._late if within is None else None
        every, longest = LOOK, patience
        if late is not None:
            every, longest = LATE, patience + (self._engine.options.socket_timeout or 1e9)
        if within is not None:
            every = longest = min(within, self._engine.options.socket_timeout or 1e9)

        def wait() -> None:
            nonlocal late_by
            if not late_by and wire.readable(every):
                return
            until, late_by = time.monotonic() + longest - (late_by or every), 0.0
            while True:
                if self._engine.moves != moves:
                    raise Replaced("another server has become the master")
                if late is not None:
                    late(self._place)
                left = until - time.monotonic()
                if left <= 0 and (late is not None or within is not None):
                    raise server.TimeoutError("Timeout reading from socket")
                if left <= 0 or wire.readable(min(every, left)):
                    return

        return wait


def _hung_up(line: _Line) -> bool:
    """Whether an idle connection was closed by the server: nothing else makes it readable."""
    return line.wire.readable(0)


def _converse(
    line: _Line,
    data: Sequence[bytes],
    wait: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
    late: Callable[[], Callable[[], None]] | None = None,
) -> list[Any]:
    """Send commands and wait for the replies: server errors are among them, not raised.

    `meanwhile` is called once all is sent, and `wait` before each read. Once an answer is late,
    `late` says how to wait from then on.
    """
    talk, wire = line.talk, line.wire
    replies: list[Any] = []
    wire.send(talk.say_packed(data, data))
    if meanwhile is not None:
        meanwhile()
    while True:
        if wait is not None:
            wait()
        try:
            received = wire.receive()
        except server.TimeoutError:
            if wait is not None or late is None:
                raise
            wait = late()
            continue
        for asked, reply in talk.feed(received):
            if asked is data:
                replies.append(reply)
                if len(replies) == len(data):
                    return replies
