"""What each worker says of itself, so that `atomq doctor` finds a fleet that does not agree.

Every consuming process keeps one key, `_atomq.worker.<id>`, that expires when it is gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomq.client import Engine
from atomq.errors import AtomqError

PREFIX = "_atomq.worker."
EVERY = 20.0  # seconds between two words of a worker
KEPT_MS = 60_000
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


class Roll:
    """One worker's entry: written now and then, deleted when it leaves."""

    def __init__(self, engine: Engine, name: str, settings: Mapping[str, Any]) -> None:
        self._engine = engine
        self._key = PREFIX + name
        self._settings = dict(settings)
        self._next = 0.0

    def say(self, queues: Sequence[str]) -> None:
        """Write the entry, if it is time. A user who may not is not on the roll."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        entry = {
            **self._settings,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "queues": sorted(queues),
            "clock_ms": int(time.time() * 1000),
        }
        try:
            seconds, micros = self._engine.command("TIME")
            entry["server_ms"] = int(seconds) * 1000 + int(micros) // 1000
            self._engine.command("SET", self._key, json.dumps(entry), "PX", KEPT_MS)
        except AtomqError:
            return

    def leave(self) -> None:
        """Take the entry away."""
        self._next = 0.0
        self._engine.command("DEL", self._key)


@dataclass(frozen=True)
class Worker:
    """One entry of the roll."""

    name: str
    settings: Mapping[str, Any]

    @property
    def skew_ms(self) -> int:
        """How far its clock is ahead of the server's."""
        return int(self.settings.get("clock_ms", 0)) - int(self.settings.get("server_ms", 0))

    def __str__(self) -> str:
        return f"{self.settings.get('host', '?')} (pid {self.settings.get('pid', '?')})"


def workers(entries: Iterable[tuple[str, bytes | None]]) -> list[Worker]:
    """The workers of these keys and values; what cannot be read is passed over."""
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
        seconds = (skews[-1].skew_ms - skews[0].skew_ms) / 1000
        faults.append(f"the clocks of {skews[0]} and {skews[-1]} differ by {seconds:.0f} s")
    return faults
