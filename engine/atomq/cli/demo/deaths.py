"""Workers that die, what they held, and how long it took until that was in other hands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atomq import Peeked, Queue
from atomq.cli.demo.outcome import Entry, rounded
from atomq.cli.output import plural

if TYPE_CHECKING:
    from atomq.cli.demo.stage import Process, Stage
    from atomq.cli.demo.view import Show

SLACK = 1.0  # seconds after its end within which a lease must have been handed on
MANY = 1000  # messages looked at in one call


@dataclass
class Death:
    """A worker that died, and what it held."""

    worker: int
    pid: int
    how: str
    planned: bool
    at: float
    held: dict[str, str]
    """Receipts, and what they stand for."""
    back: dict[str, float] = field(default_factory=dict)
    """Receipts that are live no more, and how many seconds after the death that was."""

    buried: int = 0
    """How many of them went to dead letters instead."""

    @property
    def waiting(self) -> bool:
        """Whether some of it is still held in the dead worker's name."""
        return len(self.back) < len(self.held)

    @property
    def seconds(self) -> float | None:
        """How long it took until the last one was in other hands; None if that was not seen."""
        return max(self.back.values()) if self.back and not self.waiting else None

    def seen(self, live: set[str]) -> bool:
        """These receipts are live now. Whether with that the last one has come back."""
        seconds = time.monotonic() - self.at
        gone = self.held.keys() - self.back.keys() - live
        self.back.update(dict.fromkeys(gone, seconds))
        return bool(gone) and not self.waiting

    def facts(self) -> dict[str, Any]:
        """For machines; see `death` in schemas/cli.schema.json."""
        return {
            "worker": self.worker,
            "pid": self.pid,
            "how": self.how,
            "planned": self.planned,
            "held": len(self.held),
            "buried": self.buried,
            "back_seconds": rounded(self.seconds),
        }

    def entry(self, lease: float) -> Entry:
        """The line of the ledger: whether all came back in time."""
        seconds, within = self.seconds, lease + SLACK
        value = "never" if seconds is None else f"{seconds:.1f} s"
        note = f"{plural(len(self.held), 'message')} of worker {self.worker}; "
        if self.buried:
            note += f"{self.buried} went to dead letters"
            return Entry("came back", value, note, holds=False)
        note += f"lease {lease:g} s, so {within:g} s at most"
        return Entry("came back", value, note, seconds is not None and seconds <= within)


class Deaths:
    """Watches over the workers of an act and the queue they take messages from."""

    def __init__(
        self, stage: Stage, show: Show, queue: Queue, name_of: Callable[[Peeked], str]
    ) -> None:
        self._stage, self._show = stage, show
        self._queue, self._name_of = queue, name_of
        self.workers: list[Process] = []
        self.holders: dict[str, int] = {}
        """Who is behind the front part of a receipt, as far as it is known."""
        self.all: list[Death] = []

    def kill(self, victim: Process) -> bool:
        """SIGKILL, on purpose, if it holds something in that very moment. Whether it did."""
        with victim.standing_still():
            self._queue.state()  # with this the server has also read what it had sent before
            if self.held()[victim.number]:
                victim.kill()
        if not victim.ended:
            return False
        self._bury(victim, planned=True)
        return True

    def count(self) -> None:
        """Who died by itself, or by somebody else's hand; and whose messages came back."""
        buried = {death.worker for death in self.all}
        for worker in self.workers:
            if worker.ended and worker.number not in buried:
                self._bury(worker, planned=False)
        waiting = [death for death in self.all if death.waiting]
        if not waiting:
            return
        live = {peeked.name for peeked in self._queue.peek("unacked", MANY)}
        for death in waiting:
            if death.seen(live):
                self._tell_return(death)

    @property
    def waiting(self) -> bool:
        """Whether a dead worker's messages are still held in its name."""
        return any(death.waiting for death in self.all)

    def alive(self) -> list[Process]:
        """The workers that are there."""
        return [worker for worker in self.workers if not worker.ended]

    def held(self) -> dict[int, dict[str, str]]:
        """Who holds what: receipts and what they stand for, by worker."""
        held: dict[int, dict[str, str]] = {worker.number: {} for worker in self.workers}
        for peeked in self._queue.peek("unacked", MANY):
            holder = self.holders.get(peeked.holder)
            if holder is not None:
                held[holder][peeked.name] = self._name_of(peeked)
        return held

    def letters(self) -> list[Peeked]:
        """All dead letters."""
        found: list[Peeked] = []
        while some := self._queue.peek("dead", MANY, after=found[-1].name if found else ""):
            found += some
        return found

    def states(self) -> dict[int, str]:
        """What the picture says of the workers that are gone."""
        return {death.worker: "killed" if death.planned else "died" for death in self.all}

    def _bury(self, worker: Process, *, planned: bool) -> None:
        """From here on it is watched how its messages come back."""
        at = time.monotonic()
        self._queue.state()  # with this the server has also read what the worker had sent before
        held = self.held()[worker.number]
        self.all.append(Death(worker.number, worker.pid, worker.ended, planned, at, held))
        did = "killed" if planned else "lost"
        self._show.event(
            f"{did} worker {worker.number} (pid {worker.pid}, {worker.ended}), "
            f"which held {plural(len(held), 'message')}",
            "red",
        )
        if not worker.ended.startswith("SIG"):
            self._show.event(f"its last words: {self._stage.last_words()}", "red")

    def _tell_return(self, death: Death) -> None:
        """All of a dead worker's messages are in other hands."""
        dead = {self._name_of(peeked) for peeked in self.letters()}
        death.buried = len(dead.intersection(death.held.values()))
        after = f"the last after {death.seconds:.1f} s"
        if death.buried:
            self._show.event(f"{death.buried} of its messages went to dead letters: {after}", "red")
        else:
            self._show.event(f"its messages came back: {after}", "green")
