"""One Celery app, one load, one kill: on stock Kombu's Redis transport and on atomq, side by side.

Each side has a server and two workers of its own. Half way the worker that does not run the long
task is killed with SIGKILL, with its children. The table shows what became of the tasks in this
run; what did not come back is waited for, but not for ever.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import VISIBILITY_TIMEOUT
from celery import Celery
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from atomq import Queue, embedded

HERE = Path(__file__).resolve().parent
WORKERS, SLOTS = ("1", "2"), 2
SMALL, LATER, LONG = 480, 8, 6.0  # tasks of 40 ms; tasks with an ETA; seconds of the long task
SLACK = 1.0  # seconds after the visibility timeout within which it has to be back
BOOT = 60.0  # seconds the workers may take to be ready


class Side:
    """A broker on a server of its own, two workers, and what they noted."""

    def __init__(self, name: str, scheme: str, folder: Path, wait: float) -> None:
        self.name, self.folder, self.wait = name, folder, wait
        self.server = embedded.start(folder / "server")
        self.url = f"{scheme}://{self.server.socket}?virtual_host=0"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.notes: list[dict[str, Any]] = []
        self.read = 0
        self.sent: list[str] = []
        self.due: dict[str, float] = {}
        self.long = ""
        self.killed_at = 0.0
        self.victim = ""
        self.held: set[str] = set()
        """What the killed worker had received and not ended."""

    def start(self) -> None:
        """Start the workers."""
        command = [sys.executable, "-m", "celery", "--quiet", "--app", "app", "worker"]
        command += ["--concurrency", str(SLOTS), "--loglevel", "ERROR"]
        for name in WORKERS:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
            environment |= {"BROKER_URL": self.url, "NOTES": str(self.folder / "notes")}
            environment |= {"WORKER": name, "TMPDIR": str(self.folder)}
            with (self.folder / "log").open("ab") as log:
                self.workers[name] = subprocess.Popen(
                    [*command, "--hostname", f"worker{name}@{self.name}"],
                    cwd=HERE,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # one group, which one signal takes away
                )

    def publish(self) -> None:
        """The same tasks on each side, sent as every Celery app sends them."""
        app = Celery(broker=self.url)
        with app.producer_pool.acquire(block=True) as producer:

            def send(seconds: float, **options: Any) -> str:
                task = app.send_task("work", [seconds], producer=producer, **options)
                self.sent.append(task.id)
                return str(task.id)

            self.long = send(LONG)
            for countdown in range(1, LATER + 1):
                at = time.time() + countdown
                self.due[send(0.04, countdown=countdown)] = at
            for _ in range(SMALL):
                send(0.04)
        app.close()

    def look(self) -> None:
        """Read what the workers have noted since the last time."""
        with contextlib.suppress(FileNotFoundError), (self.folder / "notes").open("rb") as file:
            file.seek(self.read)
            whole, newline, _ = file.read().rpartition(b"\n")
            self.read += len(whole) + len(newline)
            self.notes += [json.loads(line) for line in whole.splitlines()]

    def tasks(self, what: str, worker: str = "") -> set[str]:
        """Tasks of which a worker noted this."""
        return {n["task"] for n in self.notes if n["what"] == what and worker in ("", n["worker"])}

    def ready(self) -> bool:
        """Whether both workers are."""
        return len([n for n in self.notes if n["what"] == "ready"]) == len(WORKERS)

    def kill_one(self) -> str:
        """SIGKILL for a worker and its children; what happened, in words."""
        at_it = [n["worker"] for n in self.notes if (n["what"], n["task"]) == ("began", self.long)]
        self.victim = next(name for name in WORKERS if name != at_it[-1])
        os.killpg(self.workers[self.victim].pid, signal.SIGKILL)
        self.killed_at = time.time()
        self.workers[self.victim].wait()
        self.look()
        # Of several that received a task, the last one has it: atomq gives back what waits long.
        has = {n["task"]: n["worker"] for n in self.notes if n["what"] == "received"}
        ended = self.tasks("ended")
        self.held = {t for t, worker in has.items() if worker == self.victim} - ended
        return f"{self.name}: killed worker {self.victim}, which held {len(self.held)} tasks"

    def back(self) -> dict[str, float]:
        """What the killed worker held and the other has by now: after how many seconds."""
        found: dict[str, float] = {}
        for note in self.notes:
            if note["task"] in self.held and note["worker"] != self.victim:
                found.setdefault(note["task"], note["at"] - self.killed_at)
        return found

    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        ended, now = self.tasks("ended"), time.time()
        survivor = next(name for name in WORKERS if name != self.victim)
        idle = self.tasks("began", survivor) <= ended and now > self.notes[-1]["at"] + 1
        waited = now > self.killed_at + self.wait
        return bool(self.killed_at) and (ended.issuperset(self.sent) or (waited and idle))

    def in_the_server(self) -> set[str]:
        """Tasks that lie in the server."""
        with Queue("celery", f"redis+socket://{self.server.socket}") as queue:
            found = queue.peek("ready", 1000) + queue.peek("unacked", 1000)
            found += queue.peek("delayed", 1000) + queue.peek("dead", 1000)
            reply = queue.engine.command("HVALS", "unacked")  # stock's own
        envelopes = [json.loads(peeked.raw) for peeked in found]
        envelopes += [json.loads(value)[0] for value in reply]
        return {envelope["headers"]["id"] for envelope in envelopes}

    def end(self) -> None:
        """Kill what runs."""
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        embedded.stop(self.folder / "server")

    # ── what came of it ───────────────────────────────────────────────────────────────────────

    def judge(self) -> None:
        """Count."""
        there = self.in_the_server()
        self.look()  # in this order: a task leaves the server after it has ended
        self.done = self.tasks("ended").intersection(self.sent)
        self.waiting = (set(self.sent) - self.done) & there
        self.lost = set(self.sent) - self.done - self.waiting
        first: dict[str, dict[str, Any]] = {}
        self.after, self.beside = set[str](), set[str]()
        for note in [note for note in self.notes if note["what"] == "began"]:
            before = first.setdefault(note["task"], note)
            if before is not note:
                died = before["worker"] == self.victim and note["at"] > self.killed_at
                (self.after if died else self.beside).add(note["task"])
        self.late = [first[task]["at"] - due for task, due in self.due.items() if task in first]

    def holds(self) -> bool:
        """Whether all is done, nothing ran twice that its worker had not left, and all in time."""
        back = self.back()
        in_time = max(back.values(), default=99) <= VISIBILITY_TIMEOUT + SLACK
        all_back = len(back) == len(self.held) > 0
        done = len(self.done) == len(self.sent)
        return done and not self.beside and all_back and in_time


class Show:
    """What happened, line by line, and below it a bar for each side."""

    def __init__(self, console: Console, sides: list[Side]) -> None:
        self.console, self.began, self.line_at = console, time.monotonic(), 0.0
        columns = TextColumn("{task.description:14}"), BarColumn(30), MofNCompleteColumn()
        self.bars = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.tasks = {side.name: self.bars.add_task(side.name, total=None) for side in sides}

    def event(self, text: str) -> None:
        """A line."""
        self.console.print(f"{time.monotonic() - self.began:6.1f} s  {text}", soft_wrap=True)

    def paint(self, sides: list[Side]) -> None:
        """How far the sides are."""
        done = {side.name: len(side.tasks("ended")) for side in sides}
        for side in sides:
            self.bars.update(
                self.tasks[side.name], completed=done[side.name], total=len(side.sent) or None
            )
        if self.bars.disable and time.monotonic() > self.line_at:
            self.line_at = time.monotonic() + 2
            self.event(", ".join(f"{name}: {count} done" for name, count in done.items()))


def play(sides: list[Side], show: Show, signals: list[int]) -> None:
    """The same on both sides at once. Raises SystemExit after a signal."""

    def until(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            for side in sides:
                side.look()
            show.paint(sides)
            if signals:
                raise SystemExit(128 + signals[0])
            time.sleep(0.1)
        return condition()

    show.event(f"starting {len(WORKERS)} workers with {SLOTS} processes each, on each side")
    for side in sides:
        side.start()
    if not until(lambda: all(side.ready() for side in sides), BOOT):
        words = [(side.folder / "log").read_text(errors="replace")[-500:] for side in sides]
        raise SystemExit("the workers do not start: " + "\n".join(words))
    for side in sides:
        side.publish()
        show.event(
            f"{side.name}: sent {len(side.sent)} tasks, {LATER} with an ETA, one of {LONG:g} s"
        )

    def all_over() -> bool:
        for side in sides:
            half = len(side.tasks("ended")) >= len(side.sent) // 2
            if not side.killed_at and half and side.long in side.tasks("began"):
                show.event(side.kill_one())
        return all(side.over() for side in sides)

    until(all_over, BOOT + sides[0].wait)
    for side in sides:
        side.judge()


def table_of(sides: list[Side]) -> Table:
    """What was lost, what began twice, and how long the dead worker's tasks were away."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("in this run")
    rows: dict[str, list[str]] = {}
    for side in sides:
        table.add_column(side.name, justify="right")
        back = side.back()
        last = f"{max(back.values(), default=0):.1f} s"
        if len(back) < len(side.held):
            last = f"{len(side.held) - len(back)} not within {side.wait:g} s"
        for what, value in {
            "tasks sent": len(side.sent),
            "done": len(side.done),
            "lost: neither done nor in the server": len(side.lost),
            "not done, still in the server": len(side.waiting),
            "held by the worker that was killed": len(side.held),
            "back with the other worker": last,
            "begun again, after their worker died": len(side.after),
            "begun again, while their worker lived": len(side.beside),
            "tasks with an ETA that began": f"{len(side.late)} of {LATER}",
            "the latest of them, after its ETA": f"{max(side.late, default=0):.1f} s",
        }.items():
            rows.setdefault(what, []).append(str(value))
    for what, values in rows.items():
        table.add_row(what, *values)
    return table


def main() -> int:
    """Returns 0 if on atomq everything holds, whatever stock does."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words = "seconds after the kill for which what the killed worker held is waited for"
    options.add_argument("--wait", type=float, default=12, metavar="S", help=words)
    wait = options.parse_args().wait
    # Noted, and looked at between two looks: no process is half started then.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="atomq-killed-", ignore_cleanup_errors=True) as root:
        sides: list[Side] = []
        try:
            for name, scheme in (("stock Kombu", "redis+socket"), ("atomq", "atomq+socket")):
                folder = Path(root, scheme)
                folder.mkdir()
                sides.append(Side(name, scheme, folder, wait))
            show = Show(console, sides)
            with show.bars:
                play(sides, show, signals)
        finally:
            for side in sides:
                side.end()
    console.print()
    console.print(table_of(sides))
    holds = sides[-1].holds()
    text = "On atomq everything holds." if holds else "On atomq not everything holds."
    console.print(f"\n[{'green' if holds else 'bold red'}]{text}[/]")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
