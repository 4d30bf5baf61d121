"""What the demo plays: files late, slow or missing; half way one worker is killed."""

from __future__ import annotations

import os
import random
import signal
import sysconfig
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from atomq import Engine, Item, QueueState, Receiver
from atomq.cli.demo.ledger import MISSING, Ledger
from atomq.cli.demo.stage import Stage
from atomq.cli.nodes import places
from atomq.cli.output import clean, number, plural

WORKERS = 4
TICK = 0.1  # seconds between two looks at everything
MANY = 1000  # results or messages looked at in one call
LONG_LEASES = 1.5  # so many leases the longest job takes
SLOWEST = 0.2  # seconds a file takes at most
PATIENCE = 15.0  # seconds (and a long job) without any progress, then the demo is over
PARTS = ("ready", "unacked", "delayed", "dead")


class Show(Progress):
    """What happened, line by line, and below it a bar that moves. Use it in a `with` block."""

    def __init__(self, console: Console) -> None:
        columns = BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}")
        watched = console.is_terminal and not console.is_dumb_terminal
        super().__init__(*columns, console=console, transient=True, disable=not watched)
        self.began, self.line_at, self.bar = time.monotonic(), 0.0, self.add_task("", total=None)

    def event(self, text: str, style: str = "") -> None:
        """Something happened."""
        line = f"{time.monotonic() - self.began:6.1f} s  {clean(text)}"
        self.console.print(line, style=style, soft_wrap=True)

    def paint(self, queue: QueueState, done: int, total: int) -> None:
        """Everything as it is now."""
        counts = ", ".join(f"{number(getattr(queue, part))} {part}" for part in PARTS)
        self.update(self.bar, completed=done, total=total, description=counts)
        if self.disable and time.monotonic() >= self.line_at:
            self.line_at = time.monotonic() + 2
            self.event(f"{number(done)} of {number(total)} done; {counts}")


def standard_library(most: int | None) -> tuple[Path, list[str]]:
    """Where it is, and its files."""
    root, found = Path(sysconfig.get_path("stdlib")), []
    for place, folders, names in os.walk(root):
        folders[:] = sorted({*folders} - {"site-packages", "dist-packages", "__pycache__"})
        paths = [Path(place, name) for name in sorted(names)]
        found += [str(path.relative_to(root)) for path in paths if os.access(path, os.R_OK)]
    return root, random.Random(0).sample(found, min(most or len(found), len(found)))


class Act:
    """The act. `play` raises what the engine raises if the server cannot be used."""

    def __init__(
        self, stage: Stage, show: Show, seconds: float, lease: float, most: int | None
    ) -> None:
        self.stage, self.show, self.seconds = stage, show, seconds
        self.root, paths = standard_library(most)
        self.ledger = Ledger(lease, paths)
        self.long_seconds = lease * LONG_LEASES
        self.pace = min(SLOWEST, seconds * WORKERS / len(paths))
        self.options: dict[str, Any] = {"lease": lease, "max_deliveries": 4, "result_ttl": 60}
        self.engine = Engine(stage.url, **self.options)
        self.files = stage.queue("files", self.engine)
        self.results = stage.queue("results", self.engine)
        self.holders: dict[str, int] = {}
        self.dead: set[int] = set()
        self.died_at: dict[str, float] = {}  # of what dead workers held, by receipt

    def play(self) -> Ledger:
        """Until nothing is left to do, or nothing moves any more."""
        server = places(self.engine)[0]
        self.ledger.server = f"{server.server.capitalize()} {server.version}"
        self.show.event(f"{self.ledger.server}; a lease lasts {self.ledger.lease:g} s")
        self.publish()
        names = {"files": self.files.name, "results": self.results.name, "root": str(self.root)}
        settings = {"url": self.stage.url, "options": self.options, "pace": self.pace}
        self.stage.start_workers(WORKERS, settings | names)
        with Receiver([self.results]) as receiver:
            self.watch(receiver)
        self.ledger.dead = self.files.peek("dead", MANY)
        state = self.files.state()
        self.ledger.left = state.ready + state.unacked + state.delayed
        self.show.event("checking every digest against the file itself")
        self.ledger.judge(self.root)
        return self.ledger

    def publish(self) -> None:
        """Everything at once."""
        long, *rest = self.ledger.paths
        few, began = max(3, min(40, len(rest) // 20)), time.monotonic()
        delays = {path: random.uniform(0.5, max(2, self.seconds / 2)) for path in rest[:few]}
        items = [Item({"path": long, "seconds": self.long_seconds}), Item({"path": MISSING})]
        items += [Item({"path": path}, delay=delays.get(path, 0)) for path in rest]
        self.files.put_many(items)
        self.ledger.not_before = {path: began + delay for path, delay in delays.items()}
        took = f"{(time.monotonic() - began) * 1000:.0f} ms"
        self.show.event(f"published {len(items):,} messages in {took}, {few} of them delayed")

    def watch(self, receiver: Receiver) -> None:
        """Take results, kill one worker half way, see what becomes of what it held."""
        ledger, done, before = self.ledger, set(), None
        moved_at = time.monotonic()
        while True:
            looked_at = time.monotonic()
            found = receiver.receive(MANY, TICK)
            for result in [message.body for message in found]:
                self.holders[result["holder"]] = result["worker"]
                if "path" in result:
                    ledger.results.append(result)
                    done.add(result["path"])
            self.results.ack_many(found)
            # In this order: a worker acks a file only after its result is in the other queue.
            states = [self.files.state(), self.results.state()]
            if not ledger.killed and len(done) >= len(ledger.paths) // 2:
                self.kill_one()
            self.look_at_workers()
            self.show.paint(states[0], len(done), len(ledger.paths))
            if (states[0].stats, len(ledger.results)) != before:
                moved_at, before = looked_at, (states[0].stats, len(ledger.results))
            if not self.died_at and all(s.ready + s.unacked + s.delayed == 0 for s in states):
                return None
            if looked_at - moved_at > PATIENCE + self.long_seconds or len(self.dead) == WORKERS:
                return self.show.event("nothing moves any more", "red")
            self.stage.rest(looked_at + TICK - time.monotonic() if len(found) < MANY else 0)

    def held(self) -> dict[int, dict[str, str]]:
        """What each worker holds: receipts and their files."""
        held: dict[int, dict[str, str]] = {worker: {} for worker in range(WORKERS)}
        for peeked in self.files.peek("unacked", MANY):
            if peeked.holder in self.holders:
                held[self.holders[peeked.holder]][peeked.name] = peeked.body["path"]
        return held

    def kill_one(self) -> None:
        """SIGKILL for a worker that holds something in that very moment."""
        held = self.held()
        number = max({*held} - self.dead, key=lambda worker: len(held[worker]))
        victim = self.stage.workers[number]
        os.kill(victim.pid, signal.SIGSTOP)
        self.files.state()  # with this the server has also read what it had sent before
        self.ledger.killed = bool(self.held()[number])
        os.kill(victim.pid, signal.SIGKILL if self.ledger.killed else signal.SIGCONT)

    def look_at_workers(self) -> None:
        """Note which died, and when what they held was in other hands."""
        ended = {n for n, worker in enumerate(self.stage.workers) if worker.poll() is not None}
        held, now = self.held(), time.monotonic()
        for worker in ended - self.dead:
            self.died_at |= dict.fromkeys(held[worker], now)
            self.ledger.held |= held[worker]
            process, count = self.stage.workers[worker], plural(len(held[worker]), "message")
            did = "killed" if process.returncode == -signal.SIGKILL else "lost"
            self.show.event(f"{did} worker {worker} (pid {process.pid}), which held {count}", "red")
        self.dead |= ended
        gone = self.died_at.keys() - {receipt for mine in held.values() for receipt in mine}
        self.ledger.back += [round(now - self.died_at.pop(receipt), 1) for receipt in gone]
        if gone and not self.died_at:
            self.show.event(f"they came back, the last after {self.ledger.back[-1]} s", "green")
