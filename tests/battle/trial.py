"""One trial: workers of all modes on one queue, a producer, and mishaps at random.

Afterwards every message that was put must have been worked on to its end, or lie in dead letters
because it kills its process; and each start beyond the first must have a mishap that explains it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import redis

from atomq import Queue
from atomq.errors import AtomqError, ServerUnavailable
from tests.battle.worker import MODES, NAME, options
from tests.servers import Server, wait_until

LEASE = 2.0
KINDS = {  # how often of each
    "plain": 300,
    "short": 60,
    "longer than a lease": 3,
    "forks": 6,
    "fails once": 12,
    "hangs once": 2,
    "poison": 1,
}


@dataclass
class Outcome:
    """What a trial counted."""

    put: int = 0
    starts: int = 0
    deaths: int = 0
    mishaps: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    innocent: list[int] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)


class Trial:
    """A server of its own, workers, a producer and mishaps."""

    def __init__(self, server: Server, ledger: Path, seed: int, workers: int = len(MODES)) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.outcome = Outcome()
        self._ledger = ledger
        ledger.touch()
        self._kinds: dict[int, str] = {}
        self._stop = threading.Event()
        self._modes = [MODES[i % len(MODES)] for i in range(workers)]
        self._mode_of: dict[int, str] = {}  # by process
        self._timeline: list[tuple[str, float]] = []  # mishaps
        self._workers = [self._begun(mode) for mode in self._modes]
        self._died: dict[int, float] = {}  # when, by process
        self._frozen: list[tuple[int, float]] = []  # processes, and since when
        self._upsets: list[float] = []  # when the server was restarted or connections were cut
        self.queue = Queue(NAME, server.url, retry_budget=60, **options(LEASE))

    # ── workers, as a supervisor keeps them ───────────────────────────────────────────────────

    def _begun(self, mode: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "tests.battle.worker", self.server.url, str(self._ledger)]
        worker = subprocess.Popen(
            [*words, mode, str(LEASE)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._mode_of[worker.pid] = mode
        return worker

    def _supervise(self) -> None:
        for i, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._died.setdefault(worker.pid, time.time())
                self.outcome.deaths += 1
                self._workers[i] = self._begun(self._modes[i])

    def _close(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()

    # ── what goes wrong ───────────────────────────────────────────────────────────────────────

    def kill(self) -> None:
        worker = self.chance.choice(self._workers)
        self._died.setdefault(worker.pid, time.time())
        worker.kill()
        worker.wait()

    def freeze(self) -> None:
        worker = self.chance.choice(self._workers)
        with suppress(ProcessLookupError):
            worker.send_signal(signal.SIGSTOP)
            self._frozen.append((worker.pid, time.time()))
            time.sleep(1.5 * LEASE)
            worker.send_signal(signal.SIGCONT)

    def restart_server(self) -> None:
        self._upsets.append(time.time())
        self.server.restart(down=self.chance.uniform(0, 1.5))
        self.server.client().config_set("appendfsync", "always")

    def cut_connections(self) -> None:
        self._upsets.append(time.time())
        with suppress(redis.ConnectionError):
            self.server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")

    def forget_scripts(self) -> None:
        self.server.client().script_flush()

    # ── the producer ──────────────────────────────────────────────────────────────────────────

    def _produce(self) -> None:
        chance = random.Random(self.chance.random())
        n = 0
        while not self._stop.is_set():
            (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
            delay = chance.choice([0, 0, 0, chance.uniform(0, 3)])
            with suppress(ServerUnavailable):
                self.queue.put({"n": n, "kind": kind}, id=str(n), delay=delay)
                self._kinds[n] = kind
                n += 1  # else the next try is under the same id
            self._stop.wait(chance.uniform(0, 0.02))
        self.outcome.put = n

    # ── from begin to end ─────────────────────────────────────────────────────────────────────

    def run(self, seconds: float, say: Callable[[str], None] = lambda _: None) -> Outcome:
        self.server.client().config_set("appendfsync", "always")
        producer = threading.Thread(target=self._produce)
        producer.start()
        mishaps = [self.kill, self.freeze, self.restart_server, self.cut_connections]
        mishaps += [self.kill, self.forget_scripts]
        try:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                self._supervise()
                mishap = self.chance.choice(mishaps)
                self._timeline.append((mishap.__name__, time.time()))
                mishap()
                self.outcome.mishaps[mishap.__name__] += 1
                done = sum(self.outcome.mishaps.values())
                say(f"{left:4.0f} s left, {len(self._kinds)} put, {done} mishaps")
                time.sleep(self.chance.uniform(0.2, 1.5))
            self._stop.set()
            producer.join()
            say("the rest is worked off")
            wait_until("the queue to be empty", self._is_empty, 120)
        finally:
            self._stop.set()
            self._close()
        self._judge()
        return self.outcome

    def _is_empty(self) -> bool:
        self._supervise()
        try:
            state = self.queue.state()
        except AtomqError:
            return False
        return state.ready + state.delayed + state.unacked == 0

    # ── the ledger ────────────────────────────────────────────────────────────────────────────

    def _judge(self) -> None:
        out = self.outcome
        done: set[int] = set()
        events: dict[int, list[tuple[str, int, float]]] = {}
        for line in self._ledger.read_text().splitlines():
            what, n, _, pid, at = line.split()
            events.setdefault(int(n), []).append((what, int(pid), float(at)))
            if what == "start" and self._kinds.get(int(n)) == "poison":
                self._died[int(pid)] = float(at)  # known to the supervisor a while later
            if what == "end":
                done.add(int(n))
            out.starts += what == "start"
        dead = set()
        for letter in self._letters():
            dead.add(letter)
            out.dead[self._kinds[letter]] += 1
        out.innocent = sorted(n for n in dead if self._kinds[n] != "poison")
        out.lost = sorted(n for n in self._kinds if n not in done and n not in dead)
        for n, seen in events.items():
            starts = [i for i, (what, _, _) in enumerate(seen) if what == "start"]
            for i, j in pairwise(starts):
                why = self._why(seen[i:j], seen[j], self._kinds.get(n, ""))
                out.duplicates[why] += 1
                if why == "unexplained":
                    around = [m for m in self._timeline if abs(m[1] - seen[j][2]) < 3 * LEASE]
                    modes = {pid: self._mode_of.get(pid) for _, pid, _ in seen}
                    out.unexplained.append(
                        f"{n} ({self._kinds.get(n)}): {seen}; {modes}; {around}; {self._frozen}"
                    )

    def _letters(self) -> list[int]:
        found, after = [], ""
        while some := self.queue.peek("dead", 100, after=after):
            found += [letter.body["n"] for letter in some]
            after = some[-1].name
        return found

    def _why(
        self, seen: list[tuple[str, int, float]], second: tuple[str, int, float], kind: str
    ) -> str:
        """Why a message was started again, by what its first start met."""
        _, pid, began = seen[0]
        _, other, again = second
        words = {what for what, by, _ in seen if by == pid}
        if "failed" in words or "cancelled" in words:
            return "it failed or was cancelled"
        if self._died.get(pid, again + 1) <= again:
            return "its process died"
        if any(p in (pid, other) and began - 2 * LEASE <= at <= again for p, at in self._frozen):
            return "one of the two processes was frozen for longer than a lease"
        if kind == "hangs once":
            return "it hung for longer than max_lease"
        if any(began - LEASE <= at <= again for at in self._upsets):
            return "the server was restarted, or connections were cut"
        return "unexplained"
