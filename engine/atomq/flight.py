"""What goes over one connection at once, and which of the replies is whose. Without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from atomq.calls import Call
from atomq.conversation import packed
from atomq.durability import Confirmed, Durability

SMALL = 16_384  # bytes that may travel with what others send


class Load(Protocol):
    """What goes over one connection at once."""

    @property
    def data(self) -> Sequence[bytes]:
        """The commands, packed."""
        ...

    @property
    def patience(self) -> float:
        """Seconds for which the server may take its time, beyond those that others have."""
        ...

    @property
    def large(self) -> bool:
        """Whether no call of another task is to wait behind it."""
        ...


class Bare(NamedTuple):
    """Commands that are not calls. Any may take its time, unless it is known not to."""

    data: Sequence[bytes]
    large: bool = True
    patience: float = 0.0


class Behind:
    """What confirms the calls of a flight, sent behind them: one WAIT for all that ask for it."""

    __slots__ = ("_wanted",)

    def __init__(self) -> None:
        self._wanted: dict[Durability, None] = {}

    def add(self, call: Call[Any]) -> None:
        """A call of this flight."""
        if call.durability is not None:
            self._wanted[call.durability] = None

    @property
    def patience(self) -> float:
        """Seconds for which the server may take its time, beyond those that others have."""
        return sum(durability.seconds for durability in self._wanted)

    def data(self) -> list[bytes]:
        """The commands, packed."""
        return [packed(each) for durability in self._wanted for each in durability.commands()]

    def confirmed(self, call: Call[Any], reply: Any, answers: Sequence[Any]) -> Any:
        """The reply to a call, with what was answered to it among the answers to `data`."""
        if call.durability is None or isinstance(reply, Exception):
            return reply
        at = 0
        for durability in self._wanted:
            end = at + len(durability.commands())
            if durability == call.durability:
                return Confirmed(reply, answers[at:end])
            at = end
        raise LookupError(call)


class Flight:
    """Some calls, before them SCRIPT LOAD of the scripts of `loads`, behind them what confirms.

    Raises redis-py's `DataError` for what cannot be sent.
    """

    __slots__ = ("_behind", "_calls", "_loads", "data")

    def __init__(self, calls: Sequence[Call[Any]], loads: Sequence[Call[Any]] = ()) -> None:
        self._calls, self._loads = calls, len(loads)
        self._behind = Behind()
        self.data = [packed(("SCRIPT", "LOAD", each.script.text)) for each in loads]
        for call in calls:
            self.data.append(call.packed())
            self._behind.add(call)
        self.data += self._behind.data()

    @property
    def patience(self) -> float:
        """Seconds for which the server may take its time, beyond those that others have."""
        return self._behind.patience

    @property
    def large(self) -> bool:
        """Whether no call of another task is to wait behind it, as what is confirmed waits too."""
        if self._behind.patience or any(call.large for call in self._calls):
            return True
        return sum(map(len, self.data[self._loads :])) > SMALL

    def replies(self, answers: Sequence[Any]) -> list[Any]:
        """One for each of `loads`, then one a call: with what confirms it, if it asks for that."""
        first, end = self._loads, self._loads + len(self._calls)
        said = answers[end:]
        if not said:
            return list(answers)
        own = zip(self._calls, answers[first:end], strict=True)
        return [*answers[:first], *(self._behind.confirmed(*each, said) for each in own)]
