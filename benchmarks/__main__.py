"""Measure the field: `python -m benchmarks [--quick] [--only WORD …] [--server KIND]`.

    --docs       write docs/benchmarks.md and its pictures
    --json FILE  where the figures go (docs/benchmarks/results.json with --docs)
    --draw FILE  draw the page of figures measured before, and measure nothing

Starts a server of its own. In each round all peers take turns at each workload.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmarks import page
from benchmarks.deep import NotStored
from benchmarks.environments import MADE, ROOT, NotMade, python_of
from benchmarks.field import FIELD, Entrant
from benchmarks.meter import Meter
from benchmarks.peer import Cannot
from benchmarks.processes import Consumers, Failed, Handled, Publisher
from benchmarks.workloads import FULL, QUICK, Bench, Scale
from tests.servers import NotAvailable, Server

LOGS = MADE / "logs"
"""What the processes of each peer print in the last run."""
# Seconds a workload takes about, for the time left, until this run has shown better.
ABOUT = {"publish": 2.5, "consume": 4.0, "wait": 5.0, "deep": 8.0}


class Run:
    """One run over the field: what was found, and how much is left."""

    def __init__(self, console: Console, server: Server, scale: Scale, directory: Path) -> None:
        self._console, self._server, self._scale = console, server, scale
        self._admin = server.client(socket_timeout=60)
        self._meter = Meter(self._admin)
        self._handled = Handled(directory)
        self._publishers: dict[str, Publisher] = {}
        self._taken: dict[str, list[float]] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def prepare(self, field: Sequence[Entrant]) -> dict[str, str]:
        """Environments and publishers; for those that cannot run here, why not."""
        absent: dict[str, str] = {}
        for entrant in field:
            log = LOGS / f"{entrant.adapter.replace(':', '-')}.log"
            log.unlink(missing_ok=True)
            try:
                python = python_of(entrant.environment, self._console.print)
                args = (python, entrant.adapter, self._server.tcp_url, self._handled, log)
                publisher = self._publishers[entrant.name] = Publisher(*args)
                self.versions[entrant.name] = publisher.ask("versions", names=entrant.packages)
            except (NotMade, Failed) as reason:
                absent[entrant.name] = str(reason)
        return absent

    def measure(self, field: Sequence[Entrant]) -> int:
        """All rounds, or as many as there is time for; how many were whole."""
        began, scale = time.monotonic(), self._scale
        steps = [
            (turn, workload, entrant)
            for turn in range(scale.rounds)
            for workload in scale.workloads
            if not (turn and workload.startswith("deep"))
            for entrant in [*field[turn % len(field) :], *field[: turn % len(field)]]
        ]
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        left = TextColumn("{task.fields[left]} left")
        with Progress(*columns, left, console=self._console) as progress:
            bar = progress.add_task("", total=len(steps), left="?")
            for done, (turn, workload, entrant) in enumerate(steps):
                late = time.monotonic() - began > scale.minutes * 60
                if late:
                    return max(1, turn)
                text = f"round {turn + 1}: {workload}, {entrant.name}"
                rest = sum(self._expected(name) for _, name, _ in steps[done:])
                rest = min(rest, scale.minutes * 60 - (time.monotonic() - began))
                progress.update(bar, completed=done, description=text, left=_clock(rest))
                if not self._console.is_terminal and entrant is steps[done - done % len(field)][2]:
                    self._console.print(f"{_clock(rest)} left, round {turn + 1}: {workload}")
                self._step(workload, entrant)
        return scale.rounds

    def _expected(self, workload: str) -> float:
        taken = self._taken.get(workload)
        return sum(taken) / len(taken) if taken else ABOUT[workload.partition(" ")[0]]

    def _step(self, workload: str, entrant: Entrant) -> None:
        began = time.monotonic()
        publisher = self._publishers[entrant.name]

        def consumers() -> Consumers:
            return Consumers(*publisher.where)

        bench = Bench(
            entrant,
            self._admin,
            self._meter,
            self._handled,
            publisher,
            consumers,
            self._scale,
        )
        said = ""
        try:
            for part, figures in bench.run(workload).items():
                if isinstance(figures, str):
                    self._cell(part, entrant)["said"] = figures
                else:
                    self._cell(part, entrant)["runs"].append(figures)
        except Cannot as reason:
            said = str(reason)
        except (Failed, NotStored) as reason:
            said = f"failed: {reason}"
            self._console.print(f"{entrant.name}, {workload}: {reason}")
        if said:
            self._cell(workload, entrant)["said"] = said
        self._taken.setdefault(workload, []).append(time.monotonic() - began)

    def _cell(self, part: str, entrant: Entrant) -> dict[str, Any]:
        cells = self.found.setdefault(part, {})
        cell: dict[str, Any] = cells.setdefault(entrant.name, {"runs": [], "said": ""})
        return cell

    def end(self) -> None:
        for publisher in self._publishers.values():
            publisher.end()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def about(server: Server, scale: Scale, rounds: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "server": f"{server.kind} ({'.'.join(map(str, server.version))})",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        "quick": scale.rounds == QUICK.rounds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under three minutes")
    parser.add_argument("--server", default="valkey-9", help="valkey-9, redis-8 or redis-7")
    parser.add_argument("--only", nargs="+", default=[""], help="peers with one of these words")
    parser.add_argument("--workloads", nargs="+", help="some of them only")
    parser.add_argument("--minutes", type=float, help="when nothing more is begun")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--draw", type=Path, help="draw these figures, measure nothing")
    given = parser.parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    if given.draw:
        results = json.loads(given.draw.read_text())
    else:
        try:
            server = Server(given.server)
        except NotAvailable as reason:
            print(f"{given.server} cannot be run here: {reason}", file=sys.stderr)
            return 2
        with server:
            results = measure(console, server, given)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.docs:
        page.write(results, ROOT / "docs")
    console.print(page.summary(results))
    return 0


def measure(console: Console, server: Server, given: Any) -> dict[str, Any]:
    """All that is asked for, on this server."""
    scale = QUICK if given.quick else FULL
    if given.workloads:
        scale = replace(scale, workloads=tuple(given.workloads))
    if given.minutes:
        scale = replace(scale, minutes=given.minutes)
    field = [
        entrant
        for entrant in FIELD
        if any(word in entrant.name for word in given.only) and (entrant.quick or not given.quick)
    ]
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MADE) as directory:
        run = Run(console, server, scale, Path(directory))
        try:
            absent = run.prepare(field)
            rounds = run.measure([one for one in field if one.name not in absent])
        finally:
            run.end()
    return {
        "about": about(server, scale, rounds),
        "peers": {
            one.name: {
                "setup": one.setup,
                "ours": one.ours,
                "versions": run.versions.get(one.name, {}),
                "absent": absent.get(one.name, ""),
            }
            for one in field
        },
        "found": run.found,
    }


if __name__ == "__main__":
    sys.exit(main())
