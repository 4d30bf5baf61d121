"""Queues of several partitions, without a server: a flow is answered from dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from atomq import Engine
from atomq.calls import Call, Published
from atomq.errors import ServerUnavailable
from atomq.flows import Flow, Sleep
from atomq.keys import SLOTS

T = TypeVar("T")
MOST = 500  # calls in a test


def engine_of(scheme: str, **options: Any) -> Engine:
    """One that reaches nothing; of a cluster, one of two shards, `a` and `b`."""
    engine = Engine(f"{scheme}://nowhere.invalid", **options)
    engine.virtual_host.namespace = ""
    if engine.address.kind == "cluster":
        slots: Any = SimpleNamespace(primaries=("a", "b"), doubted=set())
        slots.owner = lambda slot: "ab"[slot * 2 // SLOTS]
        engine.slots = slots
    return engine


class Parts:
    """What the servers hold of the partitions, by name. It answers the calls of a flow."""

    def __init__(self) -> None:
        self.records: dict[str, str] = {}
        """Records, and their copies."""
        self.paused: set[str] = set()
        self.away: set[str] = set()
        """Which do not answer, and surely did not carry out the call."""
        self.refuses: set[str] = set()
        """Beside which no record can be written."""
        self.put: list[tuple[str, int]] = []
        """Where messages were put, and how many in one call."""
        self.said: list[Call[Any]] = []
        self.slept: list[float] = []
        self.answers: dict[str, Callable[[Call[Any]], Any]] = {}
        """What a test answers itself, by the verb; what is an exception is raised."""
        self.at_write: Callable[[], object] | None = None
        """Done once, before a record is written."""

    def run(self, flow: Flow[T]) -> T:
        """Carry out a flow to its end."""
        answer: Any = None
        while True:
            try:
                raised = isinstance(answer, Exception)
                effect = flow.throw(answer) if raised else flow.send(answer)
            except StopIteration as stop:
                value: T = stop.value
                return value
            answer = self.answer(effect)

    def answer(self, call: object) -> Any:
        """What one call or pause of a flow is answered; an exception is to be raised there."""
        if isinstance(call, Sleep):
            return self.slept.append(call.seconds)
        assert isinstance(call, Call)
        self.said.append(call)
        assert len(self.said) < MOST, "it asks without end"
        verb, name = call.script.name, call.queue.name
        if name in self.away:
            error = ServerUnavailable(f"{name} is away")
            error.unsent = True
            return error
        if verb in self.answers:
            return self.answers[verb](call)
        return getattr(self, f"_{verb}")(name, call)

    def _partitions(self, name: str, call: Call[str]) -> str:
        record, before = call.args
        if record and self.at_write is not None:
            then, self.at_write = self.at_write, None
            then()
        if record and self.records.get(name, "") == before and name not in self.refuses:
            self.records[name] = record
        return self.records.get(name, "")

    def _inspect(self, name: str, _: Call[Any]) -> Any:
        return SimpleNamespace(paused=name in self.paused)

    def _pause(self, name: str, call: Call[bool]) -> bool:
        before = name in self.paused
        (self.paused.add if call.args[0] else self.paused.discard)(name)
        return before

    def _publish(self, name: str, call: Call[Published]) -> Published:
        many = sum(isinstance(arg, str | bytes) and arg[:1] in ("{", b"{") for arg in call.args)
        self.put.append((name, many))
        return Published(many)
