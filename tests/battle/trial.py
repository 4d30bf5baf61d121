"""One trial: workers of all modes on one queue, a producer, and mishaps at random.

Afterwards every message that was put must have been worked on to its end, or lie in dead letters
because it kills its process; and each start beyond the first must have a mishap that explains it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import redis

from atomq import Queue
from atomq.calls import Peeked
from atomq.errors import AtomqError, ServerUnavailable
from tests.battle.judge import HUNG, LEASE, Judge, Outcome
from tests.battle.ledger import Event, read
from tests.battle.worker import MODES, NAME, options
from tests.contrib.nursery import Forked
from tests.servers import ROOT, Server, wait_until

Process = subprocess.Popen[bytes] | Forked
KINDS = {  # how often of each
    "plain": 300,
    "short": 60,
    "longer than a lease": 3,
    "forks": 6,
    "fails once": 12,
    "hangs once": 2,
    "poison": 1,
}


class Trial:
    """A server of its own, workers of the library, a producer and mishaps."""

    MODES: ClassVar[tuple[str, ...]] = MODES
    REST = (0.2, 1.5)  # seconds between two mishaps

    def __init__(self, server: Server, directory: Path, seed: int) -> None:
        self.server = server
        self.directory = directory
        self.chance = random.Random(seed)
        self.outcome = Outcome()
        self.judge = Judge()
        self.often: dict[str, float] = {**KINDS}
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.kinds: dict[str, str] = {}  # of each message whose put was confirmed
        self.workers: list[Process] = []
        self._ended: dict[int, int] = {}  # with which code, unless we killed it
        self.stop = threading.Event()
        self.max_lease: float = options(LEASE)["max_lease"]
        self.queue = Queue(NAME, server.url, retry_budget=60, **options(LEASE))

    # ── workers, as a supervisor keeps them ───────────────────────────────────────────────────

    def begin(self, mode: str) -> Process:
        log = self.directory / f"{mode}.log"
        return spawn(library(mode, self.server.url, self.ledger), log)

    def _begun(self, mode: str) -> Process:
        worker = self.begin(mode)
        self.judge.mode_of[worker.pid] = mode
        return worker

    def supervise(self) -> None:
        for worker in self.workers:
            if worker.poll() is not None:
                if worker.pid not in self.judge.died:  # none of our mishaps
                    self._ended[worker.pid] = worker.returncode
                self.judge.has_died(worker.pid)
                self.outcome.deaths += 1
                self.replace(worker)

    def replace(self, worker: Process) -> None:
        mode = self.judge.mode_of[worker.pid]
        self.workers[self.workers.index(worker)] = self._begun(mode)

    def close(self) -> None:
        for worker in self.workers:
            send(worker, signal.SIGKILL)
            worker.wait()

    # ── what goes wrong ───────────────────────────────────────────────────────────────────────

    def mishaps(self) -> list[Callable[[], None]]:
        """What goes wrong, the more often the more often it stands here."""
        return [
            *(self.kill, self.freeze, self.restart_server, self.cut_connections),
            *(self.kill, self.forget_scripts),
        ]

    def kill(self) -> None:
        worker = self.chance.choice(self.workers)
        self.judge.has_died(worker.pid)
        send(worker, signal.SIGKILL)
        worker.wait()

    def freeze(self) -> None:
        """For longer than a lease."""
        worker, began = self.chance.choice(self.workers), time.time()
        self.freeze_one(worker)
        self.judge.frozen.append((worker.pid, began, time.time()))

    def freeze_one(self, worker: Process) -> None:
        send(worker, signal.SIGSTOP)
        time.sleep(1.5 * LEASE)
        send(worker, signal.SIGCONT)

    def restart_server(self) -> None:
        began = time.time()
        self.server.restart(down=self.chance.uniform(0, 1.5))
        self.judge.outages.append((began, self.server.ready_at))
        self.server.client().config_set("appendfsync", "always")

    def cut_connections(self) -> None:
        for kind in ("normal", "pubsub"):
            with suppress(redis.ConnectionError):
                self.server.client().execute_command("CLIENT", "KILL", "TYPE", kind)

    def forget_scripts(self) -> None:
        self.server.client().script_flush()

    # ── the producer ──────────────────────────────────────────────────────────────────────────

    def produce(self, chance: random.Random) -> None:
        """Put until `stop`; what was confirmed is in `kinds`."""
        n = 0
        while not self.stop.is_set():
            kind, delay = self.kind(chance), chance.choice([0, 0, 0, chance.uniform(0, 3)])
            with suppress(ServerUnavailable):
                self.queue.put({"n": n, "kind": kind}, id=str(n), delay=delay)
                self.kinds[str(n)] = kind
                n += 1  # else the next try is under the same id
            self.stop.wait(chance.uniform(0, 0.02))

    def kind(self, chance: random.Random) -> str:
        (kind,) = chance.choices(list(self.often), list(self.often.values()))
        return kind

    # ── from begin to end ─────────────────────────────────────────────────────────────────────

    def run(self, seconds: float, say: Callable[[str], None] = lambda _: None) -> Outcome:
        self.server.client().config_set("appendfsync", "always")
        chance = random.Random(self.chance.random())
        producer = threading.Thread(target=self.produce, args=(chance,))
        try:
            self.workers = [self._begun(mode) for mode in self.MODES]
            self.await_workers()
            producer.start()
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                self.supervise()
                mishap = self.chance.choice(self.mishaps())
                self.judge.mishaps.append((mishap.__name__, time.time()))
                mishap()
                self.outcome.mishaps[mishap.__name__] += 1
                done = sum(self.outcome.mishaps.values())
                say(f"{left:4.0f} s left, {len(self.kinds)} put, {done} mishaps")
                time.sleep(self.chance.uniform(*self.REST))
            self.stop.set()
            producer.join()
            say("the rest is worked off")
            wait_until("the queue to be empty", self._is_empty, 300)
        finally:
            self.stop.set()
            self.close()
        self._count()
        return self.outcome

    def await_workers(self) -> None:
        """Wait until all consume."""

    def _is_empty(self) -> bool:
        self.supervise()
        try:
            state = self.queue.state()
        except AtomqError:
            return False
        return state.ready + state.delayed + state.unacked == 0

    # ── what the ledger says ──────────────────────────────────────────────────────────────────

    def _count(self) -> None:
        out, events = self.outcome, read(self.ledger)
        done = set()
        for n, seen in events.items():
            for event in seen:
                if event.what == "start" and self.kind_of(n) == "poison":
                    self.judge.has_died(event.worker, event.at)  # seen a while later
                    self._ended.pop(event.worker, None)
                elif event.what == "end":
                    done.add(n)
                elif event.what == "put":
                    self.kinds[n] = self.kind_of(n)
        out.put = len(self.kinds)
        letters = {self.message_of(letter): letter for letter in self._letters()}
        out.dead.update(self.kind_of(n) for n in letters)
        out.innocent = [
            f"{n} ({self.kind_of(n)}): {letter.reason}, {letter.detail}; {events.get(n)}"
            for n, letter in letters.items()
            if not self.may_die(n, letter)
        ]
        over = done | {*letters}
        out.lost = [
            f"{n} ({kind}): {events.get(n)}"
            for n, kind in self.kinds.items()
            if n not in over and not self.may_be_lost(n, events.get(n, []))
        ]
        for worker, code in self._ended.items():
            mode = self.judge.mode_of[worker]
            out.unexplained.append(f"a worker ({mode}, {worker}) ended by itself: {code}")
        self.judge.count(events, out, lambda *about: self.why(events, *about))

    def kind_of(self, n: str) -> str:
        return self.kinds.get(n, "")

    def message_of(self, letter: Peeked) -> str:
        return str(letter.body["n"])

    def may_die(self, n: str, _: Peeked) -> bool:
        """Whether a message belongs in dead letters."""
        return self.kind_of(n) == "poison"

    def may_be_lost(self, n: str, _: list[Event]) -> bool:
        """Whether a message need not be worked on to its end."""
        return False

    def why(
        self, events: dict[str, list[Event]], seen: list[Event], second: Event, count: int
    ) -> str | None:
        """What else explains that a message was started again."""
        is_over = second.at - seen[0].at > self.max_lease - 0.5
        return HUNG if is_over and self.hung(seen[0].n) else None

    def hung(self, n: str) -> bool:
        return self.kind_of(n) == "hangs once"

    def _letters(self) -> list[Peeked]:
        found: list[Peeked] = []
        while some := self.queue.peek("dead", 100, after=found[-1].name if found else ""):
            found += some
        return found


def send(worker: Process, number: int) -> None:
    """Send a signal to a worker and all its children."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, number)


def library(mode: str, url: str, ledger: Path, queues: Sequence[str] = ()) -> list[str]:
    """The words that begin a worker of the library."""
    return ["tests.battle.worker", url, str(ledger), mode, str(LEASE), *queues]


def environment(**more: str) -> dict[str, str]:
    """That of a worker."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}", **more}


def spawn(module: Sequence[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Run a module of Python in a session of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            env=environment(**more),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
