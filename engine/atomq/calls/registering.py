"""What processes note of themselves and of queues, and reading it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atomq import arguments, fork, scripts
from atomq.calls.base import LONGEST_NAME, MOST, Call, as_text, check_names
from atomq.keys import RegisterKeys

IN_USE, GONE = 1, -1  # of what is noted in the register

_IN_REGISTER = ("queues", "processes", "alive")

_REGISTER = scripts.declared(
    "register",
    keys=_IN_REGISTER,
    argv=("process", "alive_ms", "gone", "entry", "queue * item"),
)


def register(
    keys: RegisterKeys,
    queues: Sequence[str] = (),
    *,
    process: str = "",
    alive_ms: int = 0,
    entry: str = "",
    gone: bool = False,
) -> Call[int]:
    """Names of queues (1,000 at most) are in use, or `gone`; how many that changed.

    `process`, if named, counts as there for `alive_ms`, and says of itself `entry`, which is JSON
    of at most 64 KiB; with 0 it leaves.
    """
    check_names("queues", queues, least=0)
    args = [process, arguments.whole("alive_ms", alive_ms, 0, 3_600_000), int(gone), entry, *queues]
    return Call(_REGISTER, keys, keys.every, args, lambda reply, _: int(reply))


_ROSTER = scripts.declared("roster", keys=_IN_REGISTER, argv=("after", "limit"))


@dataclass(frozen=True)
class Process:
    """A process that consumes, as it says of itself, 20 s ago at most while it is well."""

    name: str
    """What the names of its consumers, and so its receipts, begin with. A process that consumes by
    several addresses has an entry for each, with this name.
    """
    said_ms: int
    """When it said so, by the server's clock."""
    entry: dict[str, Any]

    @property
    def host(self) -> str | None:
        """Where it runs."""
        host = self.entry.get("host")
        return host if isinstance(host, str) else None

    @property
    def pid(self) -> int | None:
        """Its process id there."""
        pid = self.entry.get("pid")
        return pid if isinstance(pid, int) else None

    @property
    def where(self) -> str:
        """Its host and pid, in words."""
        return f"{self.entry.get('host', '?')} (pid {self.entry.get('pid', '?')})"

    @property
    def queues(self) -> list[str]:
        """What it consumes: its first 100 queues. One with partitions is one of them."""
        found = self.entry.get("queues")
        return [str(name) for name in found] if isinstance(found, list) else []

    def overlooks(self, partitions: Sequence[str]) -> bool:
        """Whether it consumes the first of these and knows of no other."""
        said = self.entry.get("partitions")
        if isinstance(said, dict) and partitions[0] in said:
            return False
        # Older releases name each partition that they consume.
        return set(partitions).intersection(self.queues) == {partitions[0]}

    def limits_of(self, queue: str) -> dict[str, float]:
        """What it holds messages to: `max_deliveries`, `lease_seconds` and the like, as it says."""
        by_queue = self.entry.get("limits_of")
        found = by_queue.get(queue) if isinstance(by_queue, dict) else None
        if found is None:
            found = self.entry.get("limits")
        return {
            str(name): value
            for name, value in (found.items() if isinstance(found, dict) else ())
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


class Roster(NamedTuple):
    """A page of the register."""

    now_ms: int
    queues: list[str]
    processes: list[Process]
    """The 1,000 at most that the server looked up."""
    alive: int
    """How many processes there are."""

    def process_of(self, consumer: str) -> Process | None:
        """The process of a consumer, by its name: what the receipts of its messages begin with."""
        name = consumer[: fork.NAME]
        return next((process for process in self.processes if process.name == name), None)


def roster(keys: RegisterKeys, *, after: str = "", limit: int = MOST) -> Call[Roster]:
    """So many names of queues behind `after`, and the processes, all of them; changes nothing."""

    def parse(reply: Any, _repeated: bool) -> Roster:
        now, queues, flat, alive = reply
        entries = [_process(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        return Roster(now, [as_text(name) for name in queues], [e for e in entries if e], alive)

    args = [arguments.text("after", after, LONGEST_NAME), arguments.whole("limit", limit, 1, MOST)]
    return Call(_ROSTER, keys, keys.every, args, parse, large=True)


def _process(name: bytes, value: bytes) -> Process | None:
    said, _, text = as_text(value).partition(" ")
    try:
        entry = json.loads(text)
        named = as_text(name)[: fork.NAME]  # without the number of the address
        return Process(named, int(said), entry) if isinstance(entry, dict) else None
    except (ValueError, RecursionError):
        return None  # of a release that is not known yet, or written by another program
