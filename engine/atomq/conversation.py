"""What is said to one server over one connection, and what its answers mean. Without I/O.

A `Conversation` packs commands and parses replies. The server answers commands in the order in
which they were sent, so the conversation keeps one purpose a command, in that order, and gives each
reply together with its purpose. A driver moves the bytes:

    wire.send(conversation.say(("GET", "key"), "why"))
    for purpose, reply in conversation.feed(wire.receive()):
        ...

What a purpose is, is the driver's to choose; the conversation only gives it back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self

from hiredis import PushNotification, Reader, pack_command
from redis import exceptions as server
from redis.connection import DefaultParser

Word = str | bytes | int | float
Command = Sequence[Word] | bytes
"""By its words, or packed already."""

PUSHED: Final = object()
"""The purpose that comes with what the server sends unasked: messages, invalidations."""

HEARD: Final = frozenset({b"message", b"smessage"})
"""What a push begins with that is a message on a channel, of (S)SUBSCRIBE."""

ENDED: Final = b"sunsubscribe"
"""What one begins with that ends a subscription of SSUBSCRIBE: another node serves its slot now."""

INVALIDATED: Final = b"invalidate"
"""What one begins with that reports changed keys: a list of them, or None for all there are."""

TRACK: Final = ("CLIENT", "TRACKING", "ON", "OPTIN")
"""Have the server report, once, the next change of what is read behind `CACHING`."""

CACHING: Final = ("CLIENT", "CACHING", "YES")
"""Of what the next command reads."""

UNREAD: Final = 0.01
"""Seconds after which CLIENT UNBLOCK is said again that ended nothing, and then twice as many."""

_NOTHING: Final = object()  # not False and not None, which are replies in RESP3
_parse_error: Any = DefaultParser.parse_error
# What Redis 6.2 puts before the words of the server about a command in a script.
_IN_SCRIPT = re.compile(r"^(?:ERR Error running script.*?: )?(?:@user_script: ?\d+: )+-(?=[A-Z]+ )")


def packed(command: Sequence[Word]) -> bytes:
    """A command as it is sent. Raises redis-py's `DataError` for a word of another type."""
    words: Any = tuple(command)
    try:
        data: bytes = pack_command(words)
    except TypeError as error:
        raise server.DataError(str(error)) from error
    return data


def unblocking(client_id: Any) -> tuple[Any, ...]:
    """What ends the wait of a connection, by its number; it is answered by an error.

    The server may read it, over another connection, before the wait that was sent first: it ends
    nothing then, answers 0 and is to be said again. See `UNREAD`.

    An answer as at the end of its time is not safe: see redis#14164 (Redis 6.2 and 7.0 crash).
    """
    return "CLIENT", "UNBLOCK", client_id, "ERROR"


def is_unblocked(reply: Any) -> bool:
    """Whether a wait was ended so, by a client: no message came."""
    return isinstance(reply, server.ResponseError) and "via CLIENT UNBLOCK" in str(reply)


def _unasked(reply: Any) -> Exception:
    return server.ConnectionError(f"the server said what was not asked for: {reply!r}")


def _error(text: str) -> Exception:
    error: Exception = _parse_error(_IN_SCRIPT.sub("", text))
    return error


class Conversation(Iterator[tuple[Any, Any]]):
    """The commands under way on one connection, and the replies to them.

    It iterates over answers, and ends where the server has not said more yet. An answer is a pair
    of purpose and reply. An error reply is given, not raised: it is the exception that redis-py
    makes of it. A push has the purpose `PUSHED`, except a push that confirms a subscription.

    Iterating raises redis-py's `InvalidResponse` where the bytes are not the protocol, and its
    `ConnectionError` where the server says what nothing asked for: the connection is to be closed.
    Replies stay in here until they are taken, so that what handles one answer may take the next
    ones itself, or fail.
    """

    __slots__ = ("_gets", "_parsed", "_reader", "pending")

    def __init__(self) -> None:
        self.pending: deque[Any] = deque()
        """What is not answered yet, in order: only to be looked at."""
        self._begin()

    def _begin(self) -> None:
        self._parsed: deque[Any] = deque()
        self._reader = Reader(
            protocolError=server.InvalidResponse,
            replyError=_error,
            notEnoughData=_NOTHING,
        )
        self._gets = self._reader.gets

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def say(self, command: Command, purpose: Any) -> bytes:
        """The bytes to send for a command; its reply is to come.

        Not for SUBSCRIBE, UNSUBSCRIBE and their like, which have `subscribe`. Raises redis-py's
        `DataError` for a word of another type, and then nothing is to come.
        """
        data = command if isinstance(command, bytes) else packed(command)
        self.pending.append(purpose)
        return data

    def say_packed(self, commands: Sequence[bytes], purpose: Any) -> bytes:
        """The same for several that are packed already, each with this purpose."""
        if len(commands) == 1:
            self.pending.append(purpose)
            return commands[0]
        self.pending.extend([purpose] * len(commands))
        return b"".join(commands)

    def subscribe(self, verb: str, names: Sequence[str], purpose: Any) -> bytes:
        """The bytes to send for (P|S)SUBSCRIBE or (P|S)UNSUBSCRIBE of these names, at least one.

        The server confirms each name by a push, or refuses all of them by one error. The answer is
        the last of these pushes, or the error.
        """
        if not names:
            raise ValueError(f"{verb} of nothing")
        data = packed((verb, *names))
        self.pending.append(_Subscription(purpose, verb.lower().encode(), len(names)))
        return data

    @property
    def under_way(self) -> int:
        """How many commands are not answered yet."""
        return len(self.pending)

    @property
    def expects(self) -> Any:
        """The purpose of the command that is answered next; `PUSHED` if none is under way."""
        if not self.pending:
            return PUSHED
        first = self.pending[0]
        return first.purpose if type(first) is _Subscription else first

    @property
    def asked(self) -> list[Any]:
        """The purposes of what is not answered yet, in order."""
        return [one.purpose if type(one) is _Subscription else one for one in self.pending]

    def broken(self) -> list[Any]:
        """The connection is gone: the purposes of what got no answer, in order. It begins anew.

        The server may have carried out any of them.
        """
        lost = self.asked
        self.pending.clear()
        self._begin()
        return lost

    # ── what is heard ─────────────────────────────────────────────────────────────────────────

    def feed(self, received: bytes | Sequence[Any]) -> Self:
        """Take in what was received: bytes, or replies where no bytes are (memory://)."""
        if isinstance(received, bytes):
            self._reader.feed(received)
        else:
            self._parsed.extend(received)
        return self

    def collect(self, received: bytes | Sequence[Any], replies: list[Any], count: int) -> bool:
        """Take in what was received, and add the replies to a list until it has `count` of them.

        Whether it has. For a driver that has the connection to itself and waits for all that it
        sent: it needs no purposes, and says nothing here. Pushes are passed over.
        """
        parsed, gets = self._parsed, self._gets
        if type(received) is bytes:  # as `feed` does, which here would be one more call
            self._reader.feed(received)
        else:
            parsed.extend(received)
        while len(replies) < count:
            reply = parsed.popleft() if parsed else gets()
            if reply is _NOTHING:
                return False
            if type(reply) is not PushNotification:
                replies.append(reply)
        return True

    def sole(self, receive: Callable[[], bytes | Sequence[Any]]) -> Any:
        """The reply to the one command that was sent, with what `receive` answers as it comes.

        As `collect`, of which it takes a third of the time.
        """
        received = receive()
        if type(received) is bytes and not self._parsed:
            self._reader.feed(received)
            reply = self._gets()
            if reply is not _NOTHING and type(reply) is not PushNotification:
                return reply
            received = ()
        replies: list[Any] = []
        while not self.collect(received, replies, 1):
            received = receive()
        return replies[0]

    def take(self, received: bytes | Sequence[Any], answers: list[tuple[Any, Any]]) -> None:
        """Take in what was received, and add to a list what iterating would give now.

        For a driver that has subscribed to nothing: pushes are passed over. Raises what iterating
        raises, with what came before in the list.
        """
        parsed, gets, pending = self._parsed, self._gets, self.pending
        if type(received) is bytes:
            self._reader.feed(received)
        else:
            parsed.extend(received)
        while (reply := parsed.popleft() if parsed else gets()) is not _NOTHING:
            if type(reply) is PushNotification:
                continue
            if not pending:
                raise _unasked(reply)
            answers.append((pending.popleft(), reply))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, Any]:
        answer = self.answer()
        if answer is None:
            raise StopIteration
        return answer

    def answer(self) -> tuple[Any, Any] | None:
        """What iterating gives next; None: the server has not said more yet."""
        while True:
            reply = self._parsed.popleft() if self._parsed else self._gets()
            if reply is _NOTHING:
                return None
            if type(reply) is PushNotification:
                if not self._confirms(reply):
                    return PUSHED, reply
                if self.pending[0].left:
                    continue
                return self.pending.popleft().purpose, reply
            if not self.pending:
                raise _unasked(reply)
            purpose = self.pending.popleft()
            if type(purpose) is not _Subscription:
                return purpose, reply
            if isinstance(reply, Exception):
                return purpose.purpose, reply
            raise server.InvalidResponse(f"no answer to a subscription: {reply!r}")

    def _confirms(self, push: list[Any]) -> bool:
        # The server sends confirmations and replies in one order, so it can only be the first.
        first = self.pending[0] if self.pending else None
        if type(first) is not _Subscription or push[:1] != [first.kind]:
            return False
        first.left -= 1
        return True


class _Subscription:
    """A command that is answered by pushes."""

    __slots__ = ("kind", "left", "purpose")

    def __init__(self, purpose: Any, kind: bytes, left: int) -> None:
        self.purpose = purpose
        self.kind = kind
        self.left = left
