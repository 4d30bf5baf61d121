"""The same scenarios on stock Kombu and on atomq, each on a fresh server; one table at the end.

    python -m tests.bench.versus [--quick] [--only NAME] [--side atomq] [--server valkey-9]
                                 [--docs FILE] [--json FILE]

The exit code is 1 if atomq missed a target. What depends on how busy the machine is (CPU, rates) is
measured alternating, and counts as missed only with --strict.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.versus import cost
from tests.bench.versus.safety import SCENARIOS, Fact, Scenario
from tests.bench.versus.side import CLUSTER, SIDES, Group, Row, both
from tests.servers import NotAvailable, find_binary

COSTS = {"cost": cost.worker_cost, "green": cost.green, "raw": cost.raw, "idle": cost.idle}
SHAKY = ("server CPU", "worker CPU", "no-op tasks/s", "ceiling", "waiting tasks/s", "raw Kombu")
Told = dict[str, list[Fact]]


def safety(scenario: Scenario, given: Any) -> Group:
    """One scenario, on both sides, and of atomq on a cluster."""
    told: Told = {}
    names = (*SIDES, CLUSTER) if scenario.on_a_cluster else SIDES
    with both(given.server, given.side, names) as sides:

        def run(side: Any) -> None:
            told[side.name] = scenario.run(side, given.quick)

        # Side by side when it has to be quick, else one after the other: each has the machine.
        with ThreadPoolExecutor(2 if given.quick else 1) as pool:
            list(pool.map(run, sides))
    group = Group(scenario.name, scenario.meaning)
    for i, fact in enumerate(next(iter(told.values()))):
        texts = [told[side][i].text if side in told else "" for side in (*SIDES, CLUSTER)]
        facts = [told[side][i] for side in ("atomq", CLUSTER) if side in told]
        ours = max(facts, key=lambda each: each.value, default=None)  # the worse one
        row = Row(fact.what, *texts)
        if ours is not None and ours.most is not None:
            row.value, row.met = ours.value, ours.value <= ours.most
            row.target = f"≤ {ours.most:g}" if ours.most else "0"
        group.rows.append(row)
    return group


def costs(name: str, given: Any) -> list[Group]:
    """What a task costs."""
    more = {}
    if given.quick and name == "cost":
        more["pools"] = (("prefork", 1), ("threads", 8))
    with both(given.server, given.side) as sides:
        return COSTS[name](sides, quick=given.quick, **more)  # type: ignore[operator]


def run(given: Any, status: Any = print) -> list[Group]:
    """All scenarios that are asked for."""

    def wanted(name: str) -> bool:
        return not given.only or any(word in name for word in given.only)

    chosen = [scenario for scenario in SCENARIOS if wanted(scenario.name)]
    if given.side == CLUSTER:
        chosen = [scenario for scenario in chosen if scenario.on_a_cluster]
    with ThreadPoolExecutor(3 if given.quick else 1) as pool:
        groups = []
        for group in pool.map(lambda scenario: safety(scenario, given), chosen):
            status(f"{group.name}: done")
            groups.append(group)
    for name in COSTS:
        if wanted(name) and not (given.side and name == "raw") and given.side != CLUSTER:
            groups += costs(name, given)
            status(f"{name}: done")
    return groups


def about(kind: str) -> dict[str, str]:
    """What was compared, on what."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "server": f"{kind} ({_server_version(kind)})",
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        **{name: version(name) for name in ("celery", "kombu", "redis", "hiredis")},
    }


def _server_version(kind: str) -> str:
    said = subprocess.run(
        [find_binary(kind), "--version"], capture_output=True, text=True, check=True
    )
    return next((word[2:] for word in said.stdout.split() if word.startswith("v=")), "?")


def _value(row: Row) -> str:
    if row.unit == "×" and row.value is not None:
        return f"{row.value:.2f}×"
    return ""


def table(groups: Sequence[Group]) -> Table:
    shown = Table()
    for title in ("scenario", "what", "stock", "atomq", "cluster", "ratio", "target", ""):
        shown.add_column(title, justify="right" if title in ("ratio", "target") else "left")
    for group in groups:
        shown.add_section()
        for i, row in enumerate(group.rows):
            mark = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[row.met]
            name = f"[bold]{group.name}[/]" if i == 0 else ""
            cells = (row.what, row.stock, row.atomq, row.cluster, _value(row), row.target, mark)
            shown.add_row(name, *cells)
    return shown


def page(groups: Sequence[Group], facts: dict[str, str], *, quick: bool) -> str:
    """The table as Markdown, with what each scenario means."""
    lines = [
        "# Against stock Kombu",
        "",
        "Made by `make versus-stock`: the same Celery app, tasks and settings on Kombu's Redis",
        "transport and on atomq, with nothing changed but the URL's scheme. Each side has a fresh",
        "server for each scenario. What becomes of tasks is tried on a cluster too, of three",
        "primaries, with atomq.",
        "",
        "Counts (losses, starts, round trips, commands, bytes) do not depend on the machine. CPU",
        "and rates do, and are medians of alternating runs: read the ratio. A target is what atomq",
        "has to reach.",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items())
        + (", quick run" if quick else "")
        + ".",
        "",
    ]
    for group in groups:
        lines += [
            f"## {group.name}",
            "",
            group.meaning.rstrip(".").capitalize()[:1] + group.meaning.rstrip(".")[1:] + ".",
            "",
        ]
        on_a_cluster = any(row.cluster for row in group.rows)
        titles = ["what", "stock", "atomq", *(["on a cluster"] * on_a_cluster), "ratio", "target"]
        lines += [f"| {' | '.join(titles)} | |", "|---" * (len(titles) + 1) + "|"]
        for row in group.rows:
            mark = {True: "met", False: "**missed**", None: ""}[row.met]
            ours = (row.atomq, *([row.cluster] * on_a_cluster))
            cells = (row.what, row.stock, *ours, _value(row), row.target, mark)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.versus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="under 90 s, for CI")
    names = ", ".join([scenario.name for scenario in SCENARIOS] + list(COSTS))
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"one of: {names}; again for more"
    )
    parser.add_argument("--side", choices=(*SIDES, CLUSTER), help="run one side only")
    parser.add_argument("--server", default="valkey-9", help="valkey-9, redis-7 or redis-6.2")
    parser.add_argument("--strict", action="store_true", help="fail on CPU and rates, too")
    parser.add_argument("--docs", type=Path, help="write the table there as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    console = Console()
    try:
        facts = about(given.server)
    except NotAvailable as reason:
        print(f"{given.server} cannot be run here: {reason}", file=sys.stderr)
        return 2
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    groups = run(given, lambda text: console.print(f"[dim]{text}[/]"))
    console.print(table(groups))
    for group in groups:
        console.print(f"[bold]{group.name}[/]: {group.meaning}")
    if given.docs:
        given.docs.write_text(page(groups, facts, quick=given.quick), encoding="utf-8")
    if given.json:
        plain = [asdict(group) for group in groups]
        text = json.dumps({"about": facts, "groups": plain}, indent=2, default=str, allow_nan=True)
        given.json.write_text(text.replace("Infinity", "null") + "\n", encoding="utf-8")
    missed = [
        f"{group.name}: {row.what}"
        for group in groups
        for row in group.rows
        if row.met is False and (given.strict or group.name not in SHAKY)
    ]
    for one in missed:
        console.print(f"[bold red]missed[/] {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
