"""What a consumer of a thread waits on: it moves the bytes that `waiting.py` says."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as server
from redis.connection import AbstractConnection

from atomq import waiting, wires
from atomq.calls import Call, Claimed
from atomq.conversation import ENDED, HEARD, PUSHED
from atomq.drive import drive
from atomq.flows import Answer
from atomq.translating import SERVER_ERRORS, translated
from atomq.waiting import Line, Waiting

if TYPE_CHECKING:
    from atomq.engine_base import EngineBase

T = TypeVar("T")
LOST = 5.0  # seconds: no call takes so long, so a thread was interrupted in the midst of taking it


class Waiter:
    """Connections of their own for what blocks: BLPOP on tokens, a subscription to a result.

    It belongs to one thread at a time. What it does is in `waiting.py`.
    """

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._waiting = Waiting(engine, inline=engine.address.kind == "memory")
        # Its one element is taken by the thread that waits, or whose call travels. No lock: a
        # finalizer may come in the midst, and what it calls is not to wait for what it interrupts.
        self._free: SimpleQueue[None] = SimpleQueue()
        self._free.put(None)
        self._ear: Line | None = None
        self._era = engine.era

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._waiting.lines) or self._ear is not None

    def wait(
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
        return self._alone(rules)

    def withdraw(self) -> list[str] | Claimed:
        """See `flows.Withdraw`."""
        return self._alone(self._waiting.withdraw())

    def _alone(self, rules: waiting.Actions[T]) -> T:
        """Drive to the end, while no call of another thread travels."""
        free = self._free
        try:
            free.get(timeout=LOST)
        except Empty:
            free = self._free = SimpleQueue()
        try:
            return drive(rules, self._perform)
        finally:
            free.put(None)

    def carry(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]]) -> list[Any] | None:
        """See `Waiting.carry`. Any thread may call it; None also if another one is here."""
        return self._beside(lambda: self._waiting.carry(calls, loads), None)

    def lengths(self, names: Collection[str]) -> dict[str, Any]:
        """See `Waiting.lengths`. Any thread may call it; nothing also if another one is here."""
        return self._beside(lambda: self._waiting.lengths(names), {})

    def _beside(self, rules: Callable[[], waiting.Actions[T]], otherwise: T) -> T:
        free = self._free
        try:
            free.get_nowait()
        except Empty:
            return otherwise
        try:
            return drive(rules(), self._perform)
        except SERVER_ERRORS:
            raise
        except BaseException:
            for line in self._waiting.lines:  # interrupted: part of an answer may be lost
                line.wire.close()
            raise
        finally:
            free.put(None)

    def listen(self, channel: str, seconds: float) -> bytes | None:
        """The next message on a channel, or None after `seconds`; 0 only subscribes."""
        try:
            ear = self._listening(channel)
            deadline = time.monotonic() + seconds
            while seconds:
                for purpose, reply in ear.talk:
                    if purpose is PUSHED and reply[0] in HEARD:
                        found: bytes = reply[2]
                        return found
                    if purpose is PUSHED and reply[0] == ENDED:
                        raise server.ConnectionError("the slot of the channel has moved")
                if not ear.wire.readable(max(0.0, deadline - time.monotonic())):
                    break
                ear.talk.feed(ear.wire.receive())
        except server.NoPermissionError as error:
            self._hang_up()
            raise translated(error) from error
        except SERVER_ERRORS:
            self._hang_up()
            time.sleep(min(seconds, 0.05))
        return None

    def _listening(self, channel: str) -> Line:
        if self._era != self._engine.era:
            self._hang_up()
            self._era = self._engine.era
        slots, ear = self._engine.slots, self._ear
        astray = ear is not None and slots is not None and not slots.serves(ear.wire.node, channel)
        if self._ear is None or self._ear.names != [channel] or astray:
            self._hang_up()
            ear = self._ear = _line(self._engine._pool.fresh(channel), [channel])
            verbs = ("SUBSCRIBE",) if slots is None else ("SSUBSCRIBE", "SUBSCRIBE")
            for verb in verbs:
                ear.wire.send(ear.talk.subscribe(verb, [channel], verb))
            while ear.talk.under_way:
                for purpose, reply in ear.talk.feed(ear.wire.receive()):
                    # A server or a user without SSUBSCRIBE hears what is said to all.
                    if purpose == "SUBSCRIBE" and isinstance(reply, Exception):
                        raise reply
                    if not ear.talk.under_way:
                        break  # what came with it is heard by `listen`
        return self._ear

    def close(self) -> None:
        """Close the connections. A token that was not read is lost; others notice within 1.2 s."""
        self._engine.carriers.discard(self)
        self._alone(self._waiting.close())
        self._hang_up()

    def _hang_up(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.wire.close()

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def _perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Send(line, data):
                try:
                    line.wire.send(data)
                except BaseException:
                    line.wire.close()  # interrupted: part of it may be on its way
                    raise
            case waiting.Hear(lines, seconds):
                return _hear(lines, seconds)
            case waiting.Unblock(blocked):
                return self._engine._pool.unblock(blocked)
            case waiting.Open(names):
                if self._engine.slots is not None:
                    self._engine.carriers.add(self)
                return [_line(*found) for found in self._engine._pool.blocking(names)]
            case waiting.Close(lines):
                for line in lines:
                    line.wire.close()
            case waiting.Rest(seconds):
                time.sleep(seconds)
        return None


def _line(connection: AbstractConnection | wires.Wire, names: Sequence[str]) -> Line:
    if isinstance(connection, wires.Wire):  # of the pool
        return Line(connection, names)
    wire = wires.taken(connection)
    line = Line(wire, names)
    line.talk.feed(wire.read_before)
    return line


def _hear(lines: Sequence[Line], seconds: float | None) -> Line | None:
    if seconds is None:
        line = lines[0]
    elif len(lines) == 1:
        line = lines[0]
        if not line.wire.readable(seconds):
            return None
    else:
        readable = [line for line in lines if line.wire.readable(0)] or _select(lines, seconds)
        if not readable:
            return None
        line = readable[0]
    line.talk.feed(line.wire.receive())
    return line


def _select(lines: Sequence[Line], seconds: float) -> list[Line]:
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.wire.fileno(), selectors.EVENT_READ, line)
        return [key.data for key, _ in selector.select(seconds)]
