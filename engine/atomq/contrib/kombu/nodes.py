"""The lines of one connection of Kombu's to the nodes of a cluster: one a node, and one to listen.

Nothing here waits for a node. A line is opened by a thread of its node; what a thread has done is
posted, and carried out by the thread that the lines belong to. All of it makes one file readable.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from redis import exceptions as server

from atomq import fork, wires
from atomq.client import Engine
from atomq.contrib.kombu.line import Line
from atomq.conversation import Command
from atomq.errors import AtomqError
from atomq.keys import Place
from atomq.node_threads import NodeThreads

log = logging.getLogger("atomq.kombu")

GONE = (server.ConnectionError, server.TimeoutError, server.InvalidResponse, OSError)
PAUSE = (0.05, 1.0)  # seconds, the least and the most, between two tries to open a line


class NodeLine:
    """The line to one node; to listen, to any node that is well. It is opened when it is needed."""

    def __init__(self, lines: Lines, place: Place | None) -> None:
        self._lines = lines
        self.place = place
        self.line: Line | None = None
        self.on_open: Callable[[], None] = lambda: None
        """Called when it is open, before anything else is said."""
        self._opening = False
        self._pause, self._not_before = PAUSE[0], 0.0
        self._heard = 0.0  # when it was heard last, or was first said what is not answered yet

    @property
    def is_open(self) -> bool:
        """Whether something can be said."""
        return self.line is not None

    def open(self, now: float) -> None:
        """Open it, if it is not and it is time. A thread does."""
        if self.line is None and not self._opening and now >= self._not_before:
            self._opening = True
            self._lines.threads.do(self.place or ("", 0), f"open {id(self)}", self._open)

    def _open(self) -> None:
        try:
            line = Line(wires.taken(self._lines.engine.connection(self.place)))
        except (*GONE, AtomqError) as error:
            self._lines.post(partial(self._failed, error))
        else:
            self._lines.post(partial(self._opened, line))

    def _failed(self, error: Exception) -> None:
        log.debug("no connection to %s: %s", self.name, error)
        self._opening = False
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, PAUSE[1])

    def _opened(self, line: Line) -> None:
        self._opening = False
        if self._lines.is_closed:
            line.wire.close()
            return
        self._pause, self.line = PAUSE[0], line
        self._heard = time.monotonic()
        self._lines.watch(self)
        try:
            self.on_open()
        except GONE as error:
            self._lines.broken(self, error)

    @property
    def name(self) -> str:
        """What it is called in the log."""
        place = self.place if self.line is None else self.line.wire.node
        return "any node" if place is None else "{}:{}".format(*place)

    def say(self, *said: tuple[Command, Any]) -> None:
        """Send commands, each with the function of its answer."""
        line = self.line
        if line is None:
            return
        self._waits(line)
        try:
            line.say_all(*said)
        except GONE as error:
            self._lines.broken(self, error)

    def subscribe(self, verb: str, names: list[str], then: Callable[[Any], object]) -> None:
        """Send (P)SUBSCRIBE or (P)UNSUBSCRIBE."""
        line = self.line
        if line is None:
            return
        self._waits(line)
        try:
            line.subscribe(verb, names, then)
        except GONE as error:
            self._lines.broken(self, error)

    def _waits(self, line: Line) -> None:
        if not line.talk.under_way:
            self._heard = time.monotonic()

    def heard(self) -> None:
        """Something was heard."""
        self._heard = time.monotonic()

    @property
    def is_asked(self) -> bool:
        """Whether an answer is to come."""
        return self.line is not None and bool(self.line.talk.under_way)

    def silent(self, now: float) -> float:
        """Seconds for which it has been silent though it was asked."""
        return now - self._heard if self.is_asked else 0.0

    def hang_up(self, pause: float = 0.0) -> None:
        """Close it. It is not opened again for so many seconds."""
        line, self.line = self.line, None
        self._not_before = time.monotonic() + pause
        if line is not None:
            self._lines.unwatch(line)
            line.wire.close()


class Lines:
    """All of them, and what threads have posted."""

    def __init__(self, engine: Engine, on_broken: Callable[[NodeLine, Exception], None]) -> None:
        self.engine = engine
        self.threads = NodeThreads()
        self.is_closed = False
        self._on_broken = on_broken
        self._by_place: dict[Place, NodeLine] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._posted: deque[Callable[[], None]] = deque()
        self._has_rung = False
        self.ear = NodeLine(self, None)
        """What listens: a message to a channel reaches all nodes."""
        fork.renew(self)

    def forked(self) -> None:
        """In a child process: all of it is the parent's, and epoll's instance is shared."""
        fork.leak(self._selector, self._bell, self._rope, [line.line for line in self.every()])
        self.is_closed = True
        for line in self.every():
            line.line = None
        self._posted.clear()

    def to(self, place: Place) -> NodeLine:
        """The line to a node."""
        found = self._by_place.get(place)
        if found is None:
            found = self._by_place[place] = NodeLine(self, place)
        return found

    def every(self) -> list[NodeLine]:
        """All of them."""
        return [*self._by_place.values(), self.ear]

    def drop(self, line: NodeLine) -> None:
        """No queue needs this one any more."""
        if line.place is not None:
            self._by_place.pop(line.place, None)
        line.hang_up()

    def broken(self, line: NodeLine, error: Exception) -> None:
        """This one is of no use any more."""
        if line.line is not None:
            log.info("the connection to %s was lost: %s", line.name, error)
            self._on_broken(line, error)
            line.hang_up(PAUSE[0])

    # ── one file ──────────────────────────────────────────────────────────────────────────────

    def fileno(self) -> int:
        """The file to watch."""
        fileno: Callable[[], int] = getattr(self._selector, "fileno", lambda: -1)
        return fileno()

    def watch(self, line: NodeLine) -> None:
        """Hear what this one says."""
        assert line.line is not None
        self._selector.register(line.line.wire.fileno(), selectors.EVENT_READ, line)

    def unwatch(self, line: Line) -> None:
        """Hear it no more: it is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(line.wire.fileno())

    def readable(self, seconds: float) -> bool:
        """Whether something comes within so many seconds."""
        return bool(self._posted) or self.has_answer or bool(self._selector.select(seconds))

    def hear(self) -> None:
        """Take in all that has come, and do what was posted. Waits for nothing."""
        for key, _ in self._selector.select(0):
            line: NodeLine | None = key.data
            if line is None:
                with contextlib.suppress(OSError):
                    self._bell.recv(4096)
                self._has_rung = False
            elif line.line is not None:
                line.heard()
                try:
                    line.line.hear()
                except GONE as error:
                    self.broken(line, error)
        self.catch_up()

    @property
    def has_answer(self) -> bool:
        """Whether an answer was taken in."""
        return any(one.line is not None and one.line.has_answer for one in self.every())

    def answers(self) -> Iterator[tuple[NodeLine, Any, Any]]:
        """One answer of each line that has one: the line, purpose and reply."""
        for one in self.every():
            if one.line is None or not one.line.has_answer:
                continue
            try:
                purpose, reply = one.line.answer()
            except GONE as error:
                self.broken(one, error)
                continue
            yield one, purpose, reply

    # ── what threads post ─────────────────────────────────────────────────────────────────────

    def post(self, job: Callable[[], None]) -> None:
        """Have this done by the thread that the lines belong to. For any thread."""
        self._posted.append(job)
        if not self._has_rung:
            self._has_rung = True
            with contextlib.suppress(OSError):
                self._rope.send(b"\0")

    def catch_up(self) -> None:
        """Do what was posted."""
        while self._posted:
            self._posted.popleft()()

    def close(self) -> None:
        """Hang up."""
        if self.is_closed:
            return
        self.is_closed = True
        for line in self.every():
            line.hang_up()
        self._posted.clear()
        self._selector.close()
        self._bell.close()
        self._rope.close()
