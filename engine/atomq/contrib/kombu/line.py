"""The one socket of a connection of Kombu's: commands go out, answers come in one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as server

from atomq import wires
from atomq.client import Engine
from atomq.conversation import Command, Conversation
from atomq.wires import MemoryWire, Wire


class Line:
    """A wire and the conversation over it. Raises redis-py's exceptions where it is broken."""

    def __init__(self, wire: Wire | MemoryWire) -> None:
        self.wire = wire
        self.talk = Conversation()
        self._next: tuple[Any, Any] | Exception | None = None  # looked at, and not taken
        self.talk.feed(wire.read_before)

    def say(self, command: Command, purpose: Any) -> None:
        """Send a command. Its answer comes with `purpose`."""
        self.wire.send(self.talk.say(command, purpose))

    def say_all(self, *said: tuple[Command, Any]) -> None:
        """Send several commands at once, each with its purpose."""
        self.wire.send(b"".join([self.talk.say(command, purpose) for command, purpose in said]))

    def subscribe(self, verb: str, names: Sequence[str], purpose: Any) -> None:
        """Send (P)SUBSCRIBE or (P)UNSUBSCRIBE. See `Conversation.subscribe`."""
        self.wire.send(self.talk.subscribe(verb, names, purpose))

    @property
    def has_answer(self) -> bool:
        """Whether an answer, or nonsense, was taken in already."""
        if self._next is None:
            try:
                self._next = next(self.talk, None)
            except server.RedisError as error:
                self._next = error
        return self._next is not None

    def readable(self, seconds: float) -> bool:
        """Whether an answer, or a part of one, comes within so many seconds."""
        return self.has_answer or self.wire.readable(seconds)

    def hear(self) -> None:
        """Take in what has come over the wire, which is readable: an answer, or a part of one."""
        self.talk.feed(self.wire.receive())

    def answer(self) -> tuple[Any, Any]:
        """The next answer, purpose and reply. It is waited for."""
        while self._next is None and not self.has_answer:
            self.hear()
        answer, self._next = self._next, None
        assert answer is not None
        if isinstance(answer, Exception):
            raise answer
        return answer


class Socket:
    """A line that is made when it is needed, and watched by an event loop if there is one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened = 0.0
        self._moves = self._era = 0
        self._on_number: Callable[[int | None], None] = lambda _: None
        self.line: Line | None = None

    def watch(self, on_number: Callable[[int | None], None]) -> None:
        """Call `on_number` with each new file number to watch, with None when there is none."""
        self._on_number = on_number
        if self.line is not None:
            on_number(self.line.wire.fileno())

    def connected(self) -> Line:
        """The line; it is made if there is none. Raises redis-py's exceptions and ours."""
        if self.line is None:
            self._moves, self._era = self._engine.moves, self._engine.era
            self.line = Line(wires.taken(self._engine.connection()))
            self._opened = time.monotonic()
            self._on_number(self.line.wire.fileno())
        return self.line

    def hang_up(self) -> None:
        """Close the line."""
        if self.line is not None:
            self._on_number(None)
            self.line.wire.close()
        self.line = None

    @property
    def is_outdated(self) -> bool:
        """Whether another server became the master, or the credentials may be others by now."""
        return self.line is not None and (
            self._era != self._engine.era or self._moves != self._engine.moves
        )

    @property
    def has_moved(self) -> bool:
        """Whether another server became the master since the line was made."""
        return self.line is not None and self._moves != self._engine.moves

    def lasted(self) -> float:
        """Seconds for which the line has been there."""
        return time.monotonic() - self._opened

    def new_credentials(self) -> tuple[str, ...]:
        """What to send with AUTH, once the provider has another token; else nothing."""
        if self.line is None or self._era == self._engine.era:
            return ()
        self._era = self._engine.era
        provider = self.line.wire.credential_provider
        # Without a provider another master is about to be announced.
        return tuple(provider.get_credentials()) if provider is not None else ()
