"""What flows are made of: the calls and effects that they ask for, and the type of an answer."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from atomq.calls import Call, Claimed
from atomq.errors import AtomqError
from atomq.looking import Looked

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Effect(Generic[T_co]):
    """What a flow asks for besides script calls. `T_co` is the type of its answer."""

    __slots__ = ()


Answer = str | Claimed | Sequence[Looked] | None
"""To `Wait`."""


@dataclass(frozen=True, slots=True)
class Wait(Effect[Answer]):
    """Block until a token arrives on one of these lists, at most `seconds`.

    Answer: the list's name; or, at once, what was heard on the `channels` of lists, or None. The
    wait goes on in the server afterwards, so that no token falls between two waits; `Withdraw` ends
    it.

    `ahead` is a claim that may be sent right behind the wait, for the server to carry out at the
    moment the wait ends: a round trip less until the message is here. The answer is the claim's
    result instead of a list's name. The server ends such a wait when it `lasts` so many seconds;
    until then the next one with the same `ahead` goes on with it. It raises `ServerUnavailable` if
    there is no answer to the claim.
    """

    keys: tuple[str, ...]
    seconds: float
    ahead: Call[Claimed] | None
    lasts: float
    channels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Withdraw(Effect["list[str] | Claimed"]):
    """End the wait in the server. Answer: the lists whose tokens it took after all.

    Or the result of the claim that was sent behind it; and `ServerUnavailable`, as with `Wait`.
    """


@dataclass(frozen=True, slots=True)
class Filled(Effect[list[str]]):
    """Look which of these lists have something in them. It waits for none, and takes nothing.

    Answer: their names, as far as their nodes answer soon; those in doubt are not asked.
    """

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listen(Effect["bytes | None"]):
    """Block until a message arrives on this channel, at most `seconds`; 0: only begin to listen.

    Answer: the message, or None.
    """

    channel: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Get(Effect["bytes | None"]):
    """Read a string. Answer: its bytes, or None.

    `patience`: seconds, at most, for which it is tried again, as calls are.
    """

    key: str
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Together(Effect[list[T_co | AtomqError]], Generic[T_co]):
    """Carry out these calls in one round trip. Answer: their results, or errors, in order."""

    calls: Sequence[Call[T_co]]


@dataclass(frozen=True, slots=True)
class Sleep(Effect[None]):
    """Do nothing for so many seconds. Answer: None."""

    seconds: float


Question = Call[T] | Effect[T]
Flow = Generator[Question[Any], object, T]
"""What is sent in is an `object`: mypy refuses to use the answer of a bare `yield`. See `ask`."""


def ask(question: Question[T]) -> Flow[T]:
    """The answer to one call or effect, of the type that it declares."""
    answer = yield question
    return answer  # type: ignore[return-value] # the one place: each driver answers as declared


class Rest(Generic[T]):
    """A flow of calls that can be taken up again where it was interrupted.

    The call that was under way then is said again, as after a lost reply.
    """

    __slots__ = ("_call", "_work", "over")

    def __init__(self, work: Flow[T]) -> None:
        self._work = work
        self.over = False
        """Whether nothing of it is left: it ended, or its caller gave it up."""
        self._call: Call[Any] | None = None

    def flow(self) -> Flow[T]:
        """What is left of it."""
        try:
            call: Any = next(self._work) if self._call is None else self._call.again()
            while True:
                self._call = call
                answer = yield call
                call = self._work.send(answer)
        except StopIteration as stop:
            self.over = True
            value: T = stop.value
            return value
