"""The ledger of a battle: a file outside the server, to which each process writes what it does.

A line a step, in one write each: `start`, `end`, `failed` or `cancelled`, the message, its
delivery, the process, its group, and the time. `put` is written for what a task has sent.
"""

from __future__ import annotations

import os
import time
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple


class Event(NamedTuple):
    """A line of the ledger. `worker` is the group of the process: that of a pool's child too."""

    what: str
    n: str
    pid: int
    worker: int
    at: float


class Ledger:
    """The ledger as those see it who write it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, what: str, n: object, deliveries: int) -> None:
        words = f"{what} {n} {deliveries} {os.getpid()} {os.getpgrp()} {time.time():.3f}\n"
        os.write(self._file, words.encode())


def read(path: Path) -> dict[str, list[Event]]:
    """What was done, by message, in the order it was done.

    It may be written in another one: a process is frozen between its look at the clock and its
    write.
    """
    found: dict[str, list[Event]] = {}
    for line in path.read_text().splitlines():
        what, n, _, pid, worker, at = line.split()
        found.setdefault(n, []).append(Event(what, n, int(pid), int(worker), float(at)))
    for seen in found.values():
        seen.sort(key=attrgetter("at"))
    return found
