"""One socket of a connection of Kombu's: commands go out, answers are taken in one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as server

from atomq.conversation import Conversation, Word
from atomq.wires import MemoryWire, Wire


class Line:
    """A wire and the conversation over it. Raises redis-py's exceptions where it is broken."""

    def __init__(self, wire: Wire | MemoryWire) -> None:
        self.wire = wire
        self.talk = Conversation()
        self._next: tuple[Any, Any] | Exception | None = None  # looked at, and not taken
        self.talk.feed(wire.read_before)

    def say(self, command: Sequence[Word], purpose: Any) -> None:
        """Send a command. Its answer comes with `purpose`."""
        self.wire.send(self.talk.say(command, purpose))

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
        while not self.has_answer:
            self.hear()
        answer, self._next = self._next, None
        assert answer is not None
        if isinstance(answer, Exception):
            raise answer
        return answer
