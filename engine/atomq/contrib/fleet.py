"""The registry of workers, in which `atomq doctor` finds a fleet that does not agree.

A consuming process says its settings with its entry in the register; and each queue knows its
consumers, so that the last one to leave puts delayed tasks where others find them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from atomq import calls, flows
from atomq.calls import Process
from atomq.client import Engine
from atomq.errors import AtomqError
from atomq.node_threads import NodeThreads
from atomq.register import Consuming, Holder

PREFIX = "_atomq.worker."  # of the keys in which releases up to 14144c1 have their workers
EVERY = 20.0  # seconds between two refreshes of an entry
KEPT_MS = 60_000
LEAVING = 0.5  # seconds that a consumer which leaves waits for the node of its queue
SKEW_MS = 10_000  # clocks that differ by more than this disagree

# Settings that every worker and producer of a database has to have alike, stock ones included.
SHARED = (
    "visibility_timeout",
    "global_keyprefix",
    "sep",
    "priority_steps",
    "fanout_prefix",
    "fanout_patterns",
)


class Attendance:
    """Which queues a process consumes, by whichever of its connections: it is one consumer."""

    def __init__(
        self,
        engine: Engine,
        name: Callable[[], str],
        spread: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        """`spread` is called with a queue and the record of its partitions, if it has any."""
        self._engine = engine
        self._name = name
        self._spread = spread
        self._by: dict[str, set[object]] = {}
        self._threads = NodeThreads()

    def _do(self, queue: str, what: str, job: Callable[[], Any], wait: float = 0.0) -> None:
        """Do it; on a cluster in a thread of the node, which may be away: it is not waited for.

        Of what is done at once it raises what the engine raises.
        """
        if self._engine.slots is None:
            job()
            return
        place = self._engine.slots.owner(self._engine.keys(queue).slot)
        done = self._threads.do(place, f"{what} {queue}", partial(_quietly, job))
        if done is not None:
            done.wait(wait)

    def stay(self, queues: Iterable[str], by: object) -> None:
        """Consume these queues for another minute. `by` says which connection does."""
        for queue in queues:
            self._by.setdefault(queue, set()).add(by)
            self._do(queue, "attend", partial(_quietly, partial(self._attend, queue)))

    def _attend(self, queue: str) -> None:
        call = calls.attend(self._engine.keys(queue), self._name(), alive_ms=KEPT_MS)
        if record := self._engine.run(call).partitions:
            self._spread(queue, record)

    def lost(self, by: object) -> None:
        """A connection is gone, but the process goes on: no consumer leaves."""
        for queue in list(self._by):
            self._by[queue].discard(by)

    def leave(self, queue: str, by: object) -> None:
        """No longer consume it. If the queue has no other consumer, its delayed tasks go to ready.

        Raises what the engine raises.
        """
        connections = self._by.get(queue, set())
        connections.discard(by)
        if not connections:
            self._by.pop(queue, None)
            self._do(queue, "leave", lambda: self._leave(queue, self._name()), LEAVING)

    def _leave(self, queue: str, name: str) -> None:
        self._engine.run(flows.leave(self._engine.keys(queue), name))

    def pass_by(self, queue: str) -> None:
        """Put into ready what is delayed in a queue that is only popped from: no claim moves it."""
        job = partial(self._leave, queue, f"{self._name()}.pops")
        self._do(queue, "pass by", partial(_quietly, job))


def _quietly(job: Callable[[], Any]) -> None:
    with contextlib.suppress(AtomqError):
        job()


class Registration:
    """One connection's word of what it consumes: said now and then, taken back when it leaves."""

    def __init__(
        self, engine: Engine, holder: Holder, settings: Mapping[str, Any], attendance: Attendance
    ) -> None:
        self._engine = engine
        self._attendance = attendance
        self._queues: set[str] = set()
        self._next = 0.0
        self._said = 0.0
        self._consuming = Consuming(
            (),
            1,
            holder,
            lambda: time.monotonic() - self._said,
            engine.options.limits,
            {**settings, "kind": "kombu"},
        )

    def refresh(self, queues: Sequence[str]) -> None:
        """Consume these queues, which is said if it is time, or for queues that are new."""
        now = self._said = time.monotonic()
        if now < self._next and self._queues.issuperset(queues):
            return
        self._attendance.stay(set(queues) - (self._queues if now < self._next else set()), self)
        self._queues.update(queues)
        self._next = now + EVERY
        self._list()

    def _list(self) -> None:
        """Have the register know of these queues."""
        queues = [self._engine.keys(name) for name in sorted(self._queues)]
        self._engine.register.change(self._consuming, queues)

    def drop(self, queue: str) -> None:
        """This queue is not consumed any more."""
        if queue in self._queues:
            self._queues.discard(queue)
            self._list()
            self._attendance.leave(queue, self)

    def leave(self) -> None:
        """Leave all queues."""
        self._next = 0.0
        self._engine.register.leave([self._consuming])
        for queue in list(self._queues):
            self.drop(queue)

    def lost(self) -> None:
        """The connection is gone: another one of this process goes on, or none does."""
        self._queues.clear()
        self._attendance.lost(self)


@dataclass(frozen=True)
class Worker:
    """One process that consumes, by Kombu or Celery."""

    name: str
    settings: Mapping[str, Any]

    @property
    def skew_ms(self) -> int:
        """How far its clock is ahead of the server's; 0 if it says no number."""
        clock, server = self.settings.get("clock_ms", 0), self.settings.get("server_ms", 0)
        return clock - server if isinstance(clock, int) and isinstance(server, int) else 0

    def __str__(self) -> str:
        return f"{self.settings.get('host', '?')} (pid {self.settings.get('pid', '?')})"


def of_register(processes: Iterable[Process]) -> list[Worker]:
    """The processes that say their settings."""
    return [
        Worker(process.name, {**process.entry, "server_ms": process.said_ms})
        for process in processes
        if SHARED[0] in process.entry
    ]


def workers(entries: Iterable[tuple[str, bytes | None]]) -> list[Worker]:
    """The workers of older releases, by keys and values; what cannot be read is passed over."""
    found = []
    for key, value in entries:
        try:
            settings = json.loads(value or b"")
        except ValueError:
            continue
        if isinstance(settings, dict):
            found.append(Worker(key.removeprefix(PREFIX), settings))
    return found


def disagreements(fleet: Sequence[Worker]) -> list[str]:
    """What these workers do not have alike, in plain words; empty if they agree."""
    faults = []
    for name in SHARED:
        by_value: dict[str, list[str]] = {}
        for worker in fleet:
            value = json.dumps(worker.settings.get(name))
            by_value.setdefault(value, []).append(str(worker))
        if len(by_value) > 1:
            said = "; ".join(f"{value} on {', '.join(who)}" for value, who in by_value.items())
            faults.append(f"{name} differs: {said}")
    skews = sorted(fleet, key=lambda worker: worker.skew_ms)
    if skews and skews[-1].skew_ms - skews[0].skew_ms > SKEW_MS:
        seconds = (skews[-1].skew_ms - skews[0].skew_ms) // 1000
        faults.append(f"the clocks of {skews[0]} and {skews[-1]} differ by {seconds} s")
    return faults
