"""What one consumer waits on, without I/O: BLPOP for a token, and the claim that is sent behind it.

Each method of `Waiting` is a generator. It yields what to do next (`Open`, `Send`, `Hear`,
`Unblock`, `Close`, `Rest`) and is sent the answer, or thrown the error; `Waiter` and `AsyncWaiter`
drive it alike.

A wait goes on in the server when it has ended here, so that no token falls between two waits;
`withdraw` ends it. A claim sent ahead stands behind the wait, and the server carries it out at the
moment the wait ends: a round trip less until a message is here. If the connection breaks, or a
driver is interrupted, the claim may have been carried out: `ServerUnavailable` says so, and the
consumer asks for it again, under its id.

On the same connection it is heard that another consumer has looked into a queue: see `looking.py`.

Where several lists of one node are waited for (see `watched.py`) nothing blocks on the connection,
so the consumer's brief calls to that node travel over it too: `carry`, `lengths`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis import exceptions as server

from atomq.actions import BRIEF, NoAnswer
from atomq.calls import Call, Claimed
from atomq.cluster import named
from atomq.conversation import (
    ENDED,
    HEARD,
    INVALIDATED,
    PUSHED,
    UNREAD,
    Conversation,
    is_unblocked,
    packed,
)
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flight import Flight
from atomq.flows import Answer
from atomq.keys import Place
from atomq.looking import Looked
from atomq.translating import SERVER_ERRORS
from atomq.watched import Asked, Unwatchable, Watched

if TYPE_CHECKING:
    from atomq.engine_base import EngineBase

log = logging.getLogger("atomq.client")

T = TypeVar("T")
LATE = 0.1  # seconds after which the server ends a wait that was to be ended by then
SILENT = 1.0  # seconds after which nothing comes any more of a wait that the server has ended
GLANCE = 0.4  # seconds between two looks at the map of a cluster
WAIT: Final = "the answer to BLPOP"
CLAIM: Final = "the answer to the claim behind it"
LISTEN: Final = "the answer to SUBSCRIBE"


@dataclass(slots=True, eq=False)
class Line:
    """One connection, and the lists that are waited for on it."""

    wire: Any
    """What moves its bytes, of the driver's kind: see `wires.py`."""
    names: Sequence[str]
    talk: Conversation = field(default_factory=Conversation)
    waits: bool = False
    """Whether a BLPOP is under way."""
    token: Any = None
    """What the last one was answered, until it is taken."""
    watched: Watched | None = None
    """What is said of several lists of one node of a cluster instead of BLPOP."""

    @property
    def client_id(self) -> int | None:
        """What the server calls this connection; None: it did not say."""
        found: int | None = self.wire.hello.get(b"id")
        return found


class Replies(list[Any]):
    """The purpose of commands that are sent beside a wait, and what they were answered so far."""


@dataclass(slots=True)
class Open:
    """Open connections to wait on these lists. Answer: the lines."""

    names: Sequence[str]


@dataclass(slots=True)
class Send:
    """Send this. Interrupted, the line is to be closed."""

    line: Line
    data: bytes


@dataclass(slots=True)
class Hear:
    """Feed a line's conversation with what came for it, within so many seconds. Answer: the line.

    None: nothing came. Without `seconds` an answer is on its way: it is an error if none comes.
    """

    lines: Sequence[Line]
    seconds: float | None


@dataclass(slots=True)
class Unblock:
    """Say CLIENT UNBLOCK for these lines over other connections, to all nodes at once.

    Answer: for each whether the server ended a wait. It raises redis-py's exceptions.
    """

    lines: Sequence[tuple[Place | None, int]]
    """The node and the number of each connection."""


@dataclass(slots=True)
class Close:
    """Close these lines."""

    lines: Sequence[Line]


@dataclass(slots=True)
class Rest:
    """Do nothing for so many seconds."""

    seconds: float


Action = Open | Send | Hear | Unblock | Close | Rest
Actions = Generator[Action, Any, T]


class Waiting:
    """The rules. `inline`: a BLPOP blocks this whole process, so it is not left out (memory://).

    Not `listens`: a connection that waits can hear of nothing else.
    """

    def __init__(self, engine: EngineBase, *, inline: bool = False, listens: bool = True) -> None:
        self.lines: list[Line] = []
        self._engine = engine
        self._inline = inline
        self._listens = listens and not inline
        self._names: tuple[str, ...] = ()
        self._left_out: Sequence[str] = ()  # for which no connection was to be had
        self._era = engine.era
        self._ahead: Call[Claimed] | None = None
        self._over = 0.0  # when the server has surely ended the wait that a claim stands behind
        self._claimed: Any = None  # what the claim behind the last wait was answered
        self._in_vain = False  # whether the last wait, with no claim behind it, met trouble
        self._heard: list[Looked] = []
        # Slots, and their nodes, whose calls go over other connections since one got no answer: the
        # server may have closed this one, as one that hears of looks may get 32 MB at a time.
        self._unfit: set[tuple[int | None, Place | None]] = set()
        self._untold: list[str] = []  # lists whose tokens may have been taken by lines now closed

    # ── what is waited for ────────────────────────────────────────────────────────────────────

    def wait(
        self,
        names: tuple[str, ...],
        seconds: float,
        ahead: Call[Claimed] | None = None,
        *,
        lasts: float = 0.0,
        channels: Mapping[str, str] | None = None,
    ) -> Actions[Answer]:
        """See `flows.Wait`. None also if the connection broke.

        In another era of the engine another server is the master, or there are other credentials:
        connections are made anew. So they are where another node of a cluster serves what is waited
        for.
        """
        if ahead is not None and ahead is self._ahead:
            return (yield from self._go_on(seconds))
        try:
            is_new = names != self._names or self._era != self._engine.era
            if is_new or self._leads_astray() or (self._left_out and self._may_be_whole()):
                yield from self.close()
                self._era = self._engine.era
                self.lines = yield Open(names)
                self._names = names
                had = {name for line in self.lines for name in line.names}
                self._left_out = [name for name in names if name not in had]
                for line in self.lines:
                    if self._engine.slots is not None and len(line.names) > 1:
                        line.watched = Watched(line.names)
                        yield Send(line, line.watched.begin(line.talk))
                    if channels and self._listens:
                        yield from self._listen(line, channels)
            if ahead is None or not (yield from self._may_send_ahead()):
                answer = yield from self._wait(seconds)
                self._in_vain = False
                return answer
        except Unwatchable as error:
            log.info("a connection a queue waits, not one a node: %s", error)
            self._engine.may_watch = False
            yield from self.close()
            return self._looks()
        except server.NoPermissionError as error:
            self._warn(error)
            yield from self.close()
            yield Rest(seconds)
            return None
        except SERVER_ERRORS:
            # The claim that follows meets the same trouble. If it does not, only waits are refused.
            rest, self._in_vain = 0.5 if self._in_vain else 0.05, True
            yield from self.close()
            yield Rest(min(seconds, rest))
            return None
        self._ahead, self._claimed = ahead, None
        try:
            # The server's own end of the wait is for a client that is there no more: a message must
            # not be handed to a client that died a minute ago.
            lasts = max(seconds, lasts) + LATE
            self._over = time.monotonic() + lasts + SILENT
            yield from self._block(self.lines[0], lasts, ahead)
        except SERVER_ERRORS as error:
            raise (yield from self._given_up(error, 0.05)) from error
        return (yield from self._go_on(seconds))

    def _at_once(self, seconds: float) -> float:
        """How long to wait before it is looked whether another node of a cluster serves now."""
        return seconds if self._engine.slots is None else min(seconds, GLANCE)

    def _leads_astray(self) -> bool:
        """Whether another node serves by now what is waited for on a line."""
        slots = self._engine.slots
        return slots is not None and not all(
            slots.serves(line.wire.node, name) for line in self.lines for name in line.names
        )

    def _may_be_whole(self) -> bool:
        """Whether a connection that was not to be had may be had now."""
        slots = self._engine.slots
        return slots is not None and any(map(slots.is_sound, self._left_out))

    def withdraw(self) -> Actions[list[str] | Claimed]:
        """End the wait; the lists whose tokens it had taken after all, one a line at most.

        With a claim behind it: its result. Raises `ServerUnavailable` if that is not to be had.
        """
        if self._ahead is not None:
            answer = yield from self._end()
            return [answer] if isinstance(answer, str) else answer or []
        taken: list[str] = []
        waits: list[Line] = []
        try:
            self._check_era()
            slots = self._engine.slots
            for line in self.lines:
                if slots is not None and line.wire.node in slots.doubted:
                    yield Close((line,))  # nothing is heard of it; the others go on
                elif line.watched is not None:
                    taken += yield from self._unwatched(line, line.watched)
                elif line.waits:
                    waits.append(line)
            yield from self._ended(waits)
            taken += [name for line in waits if (name := self._taken(line)) is not None]
        except (*SERVER_ERRORS, AtomqError):
            yield from self.close()
        untold, self._untold = self._untold, []
        return taken + untold

    def close(self) -> Actions[None]:
        """Close the connections. A token that is not read is lost; others notice within 1.2 s."""
        lines, self.lines, self._names, self._left_out = self.lines, [], (), ()
        for line in lines:
            if line.watched is not None:
                self._untold += line.watched.untold()
        if lines:
            yield Close(lines)

    def _check_era(self) -> None:
        # Another server may be the master by now, which knows nothing of the wait.
        if not self.lines or self._era != self._engine.era or self._leads_astray():
            raise server.ConnectionError("what was sent was sent over a connection of before")

    def _unblock(self, lines: Sequence[Line]) -> Actions[Sequence[Any]]:
        found: list[tuple[Place | None, int]] = []
        for line in lines:
            if line.client_id is None:
                raise server.ConnectionError("the server did not say which connection this is")
            found.append((line.wire.node, line.client_id))
        try:
            ended: Sequence[Any] = yield Unblock(found)
        except server.NoPermissionError:
            self._engine.may_unblock = False
            raise
        return ended

    def _warn(self, error: Exception) -> None:
        log.warning(
            "looking for messages once a second: this user may not wait for them: %s", error
        )

    def _block(
        self, line: Line, seconds: float, ahead: Call[Claimed] | None = None
    ) -> Actions[None]:
        data = line.talk.say(("BLPOP", *line.names, f"{seconds:.3f}"), WAIT)
        if ahead is not None:
            data += line.talk.say(ahead.packed(), CLAIM)
        line.waits, line.token = True, None
        yield Send(line, data)

    def _listen(self, line: Line, channels: Mapping[str, str]) -> Actions[None]:
        names = [channels[name] for name in line.names]
        if self._engine.slots is None:
            data = line.talk.subscribe("SUBSCRIBE", names, LISTEN)
        else:  # what is said on a plain channel goes to every node; and one command takes one slot
            data = b"".join([line.talk.subscribe("SSUBSCRIBE", [name], LISTEN) for name in names])
        yield Send(line, data)

    # ── calls over a line on which nothing blocks ─────────────────────────────────────────────

    def carry(
        self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]]
    ) -> Actions[list[Any] | None]:
        """The replies to the one call, and before it to SCRIPT LOAD of the scripts of `loads`.

        None: no such line leads to its node, or it is not to travel there. Raises redis-py's
        exceptions if there is no answer within `BRIEF`.
        """
        slots, call = self._engine.slots, calls[0]
        if slots is None or self._era != self._engine.era or call.place or call.durability:
            return None
        slot = call.queue.slot
        place = slots.owner(slot)
        for line in self.lines if (slot, place) not in self._unfit else ():
            if line.watched is not None and line.wire.node == place:
                flight = Flight(calls, loads)
                if flight.large:
                    return None
                found = yield from self._answers({line: flight.data})
                replies = found[line]
                if isinstance(replies[-1], NoAnswer):
                    self._unfit.add((slot, place))
                    raise replies[-1].error
                return replies
        return None

    def lengths(self, names: Collection[str]) -> Actions[dict[str, Any]]:
        """The lengths of those lists that such lines wait for, or errors; of all nodes at once."""
        asked = {
            line: some
            for line in self.lines
            if line.watched is not None and (some := [n for n in line.names if n in names])
        }
        if not asked or self._era != self._engine.era:
            return {}
        loads = {line: [packed(("LLEN", n)) for n in some] for line, some in asked.items()}
        replies = yield from self._answers(loads)
        return {
            n: r for line, some in asked.items() for n, r in zip(some, replies[line], strict=True)
        }

    def _answers(self, loads: Mapping[Line, Sequence[bytes]]) -> Actions[dict[Line, list[Any]]]:
        """The replies to commands. A line without an answer is closed, and its error given."""
        found, until = {line: Replies() for line in loads}, time.monotonic() + BRIEF
        for line, data in loads.items():
            try:
                yield Send(line, line.talk.say_packed(data, found[line]))
            except SERVER_ERRORS as error:
                yield from self._lose(line, error, found[line], len(data))
        for line, data in loads.items():
            try:
                while len(found[line]) < len(data):
                    if (yield Hear((line,), max(0.0, until - time.monotonic()))) is None:
                        raise server.TimeoutError("Timeout reading from socket")
                    self._take(line)
            except SERVER_ERRORS as error:
                yield from self._lose(line, error, found[line], len(data))
        return dict(found)

    def _lose(self, line: Line, error: Exception, replies: Replies, many: int) -> Actions[None]:
        """Its lists are waited for anew once their node is well."""
        slots = self._engine.slots
        assert slots is not None
        assert line.watched is not None
        slots.doubt(line.wire.node)
        replies += [NoAnswer(named(error, line.wire.node))] * (many - len(replies))
        self._untold += line.watched.untold()
        self._left_out = [*self._left_out, *line.names]
        self.lines = [other for other in self.lines if other is not line]
        yield Close((line,))
        if not self.lines:
            yield from self.close()

    # ── what comes ────────────────────────────────────────────────────────────────────────────

    def _take(self, line: Line) -> None:
        """Take what has come on a line."""
        for purpose, reply in line.talk:
            if purpose is WAIT:
                line.waits, line.token = False, None if is_unblocked(reply) else reply
            elif purpose is CLAIM:
                self._claimed = reply
            elif purpose is PUSHED and reply[0] in HEARD:
                self._heard.append(Looked(reply[1].decode(), reply[2].decode()))
            elif purpose is LISTEN and isinstance(reply, Exception):
                log.debug("not heard is which consumer looked: %s", reply)
            elif type(purpose) is Replies:
                slots = self._engine.slots
                purpose.append(reply if slots is None else slots.judged(line.wire.node, reply))
            elif line.watched is not None:
                self._take_watched(line, line.watched, purpose, reply)

    def _answered(self, line: Line) -> Actions[None]:
        """Take the answers that are under way on a line, on which no wait is any more."""
        self._take(line)
        while line.talk.under_way:
            yield Hear((line,), None)
            self._take(line)

    def _ended(self, lines: Sequence[Line]) -> Actions[None]:
        """End the waits on these lines, where they are under way, and take the answers."""
        for line in lines:
            if line.waits and (yield Hear((line,), 0)) is not None:
                self._take(line)
        pause = UNREAD
        while wait := [line for line in lines if line.waits]:
            ended = yield from self._unblock(wait)
            for line, is_ended in zip(wait, ended, strict=True):
                is_coming = is_ended or pause > SILENT  # else it may be that BLPOP is not read yet
                if (yield Hear((line,), None if is_coming else pause)) is not None:
                    self._take(line)
            pause *= 2
        for line in lines:
            yield from self._answered(line)

    def _looks(self) -> Sequence[Looked]:
        heard, self._heard = self._heard, []
        return heard

    # ── several lists of one node ─────────────────────────────────────────────────────────────

    def _take_watched(self, line: Line, watched: Watched, purpose: Any, reply: Any) -> None:
        if isinstance(purpose, Asked):
            if isinstance(reply, Exception) and self._engine.slots is not None:
                self._engine.slots.judged(line.wire.node, reply)
            watched.answered(purpose, reply)
        elif purpose is PUSHED and reply[0] == INVALIDATED:
            watched.changed(reply[1])
        elif purpose is PUSHED and reply[0] == ENDED:  # another node serves one of them by now
            watched.changed(None)

    def _unwatched(self, line: Line, watched: Watched) -> Actions[list[str]]:
        """What was taken on a line. The server's reports go on: nothing is taken by them."""
        while watched.takes:
            if (yield Hear((line,), BRIEF)) is None:
                raise server.TimeoutError("no answer in time")
            self._take(line)
        name = watched.take()
        return [] if name is None else [name]

    # ── without a claim behind it ─────────────────────────────────────────────────────────────

    def _wait(self, seconds: float) -> Actions[str | Sequence[Looked] | None]:
        if self._untold:  # it is claimed from: that finds out
            return self._untold.pop()
        if self._heard:  # beside a call
            return self._looks()
        for each in self.lines:
            if each.watched is not None:
                if (name := (yield from self._told(each.watched))) is not None:  # beside a call
                    return name
                if data := each.watched.ask(each.talk):
                    yield Send(each, data)
            elif not each.waits:
                yield from self._block(each, max(0.01, seconds) if self._inline else 0)
        line: Line | None = yield Hear(self.lines, None if self._inline else seconds)
        has_heard = line is not None
        while line is not None:  # one consumer looks into many queues at once: each has its line
            self._take(line)
            if line.watched is not None:
                if (name := (yield from self._told(line.watched))) is not None:
                    return name
            elif not line.waits or self._inline:
                yield from self._answered(line)
                return self._taken(line)
            line = (yield Hear(self.lines, 0)) if len(self.lines) > 1 else None
        return self._looks() if has_heard else None

    def _told(self, watched: Watched) -> Actions[str | None]:
        name, trouble = watched.take(), watched.trouble
        if name is not None and trouble is not None:
            watched.trouble = None
            yield Rest(0.05)
        return name

    def _taken(self, line: Line) -> str | None:
        token, line.token = line.token, None
        if isinstance(token, Exception):
            raise token
        return token[0].decode() if token else None

    # ── with a claim behind it ────────────────────────────────────────────────────────────────

    def _may_send_ahead(self) -> Actions[bool]:
        # A wait that cannot be ended would carry out the claim behind it for no consumer.
        engine, line = self._engine, self.lines[0]
        if self._inline or len(self.lines) > 1 or line.waits or line.client_id is None:
            return False
        if engine.may_unblock is None:
            try:
                yield from self._unblock((line,))
                engine.may_unblock = True
            except server.ResponseError:
                engine.may_unblock = False
        return engine.may_unblock

    def _go_on(self, seconds: float) -> Actions[Answer]:
        """Wait on; the result of the claim if the wait has ended in the server."""
        try:
            self._check_era()
            line = self.lines[0]
            while (yield Hear((line,), self._at_once(seconds))) is None:
                self._check_era()
                if time.monotonic() > self._over:  # a router forgot it: no end of it is heard
                    raise server.TimeoutError("the connection fell silent")
                seconds -= GLANCE
                if self._engine.slots is None or seconds <= 0:
                    return None
            self._take(line)
        except SERVER_ERRORS as error:
            raise (yield from self._given_up(error, 0.05)) from error
        if line.waits:
            return self._looks()
        return (yield from self._end())

    def _end(self) -> Actions[str | Claimed | None]:
        """The result of the claim behind a wait, which ends now."""
        ahead = self._ahead
        assert ahead is not None
        try:
            self._check_era()
            yield from self._ended(self.lines)
        except (*SERVER_ERRORS, AtomqError) as error:
            raise (yield from self._given_up(error, 0.0)) from error
        self._ahead = None
        token, claimed = self.lines[0].token, self._claimed
        if isinstance(token, server.NoPermissionError):
            self._warn(token)
            yield Rest(0.5)
        elif isinstance(token, Exception) and isinstance(claimed, Exception):
            # Refused both, as by a replica: the claim that follows is tried until that is over.
            raise (yield from self._given_up(token, 0.05)) from token
        elif isinstance(token, Exception):  # a new connection may lead to the primary
            yield from self.close()
            yield Rest(0.5)
        if isinstance(claimed, Exception):  # a claim that is asked for the answer will tell
            return token[0].decode() if isinstance(token, list) else None
        return ahead.parse(claimed, False)

    def _given_up(self, error: Exception, rest: float) -> Actions[ServerUnavailable]:
        self._ahead = None
        yield from self.close()
        if rest:
            yield Rest(rest)
        return ServerUnavailable(str(error))
