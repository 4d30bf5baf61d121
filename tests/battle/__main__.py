"""Run trials and write what they counted into docs/reliability.md: `make battle`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.battle.cluster import ClusterTrial
from tests.battle.judge import Outcome
from tests.battle.pools import CeleryTrial
from tests.battle.trial import Trial
from tests.servers import KINDS, NotAvailable, Server, find_binary

COLUMNS = (
    "server",
    "time",
    "put",
    "started",
    "mishaps",
    "worker deaths",
    "lost",
    "innocent",
    "poison in dead letters",
    "started again",
    "unexplained",
)
# What is written between these marks of the page.
LIBRARY = "<!-- battle -->", "<!-- end -->"
CELERY = "<!-- battle of Celery -->", "<!-- end of Celery -->"
CLUSTER = "<!-- battle on a cluster -->", "<!-- end on a cluster -->"


def table(rows: list[tuple[str, float, Outcome]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for kind, seconds, out in rows:
        counts: list[int] = [
            out.put,
            out.starts,
            sum(out.mishaps.values()),
            out.deaths,
            len(out.lost),
            len(out.innocent),
            out.dead["poison"],
            sum(out.duplicates.values()),
            len(out.unexplained),
        ]
        lines.append(f"| {kind} | {seconds:.0f} s | " + " | ".join(f"{n:,}" for n in counts) + " |")
    mishaps, why = Counter[str](), Counter[str]()
    for _, _, out in rows:
        mishaps += out.mishaps
        why += out.duplicates
    return "\n".join(lines + listed(mishaps, why))


def listed(mishaps: Counter[str], why: Counter[str]) -> list[str]:
    lines = ["", "Mishaps:", ""]
    lines += [f"- {name.replace('_', ' ')}: {n:,}" for name, n in mishaps.most_common()]
    lines += ["", "Started again, because:", ""]
    return lines + [f"- {words}: {n:,}" for words, n in why.most_common()]


# Of each table its rows, and of each row its count by the kind of server.
Tables = list[dict[str, dict[str, int]]]
TITLES = "", "Mishaps:", "Started again, because:"


def cluster_tables(rows: list[tuple[str, float, Outcome]], before: str) -> str:
    """What was counted, a column a kind and their sum; other kinds are as they were `before`."""
    tables = counts_of(before) or [{} for _ in TITLES]
    for kind, seconds, out in rows:
        counts = {
            "seconds": round(seconds),
            "put": out.put,
            "started": out.starts,
            "mishaps": sum(out.mishaps.values()),
            "lost": len(out.lost),
            "started again": sum(out.duplicates.values()),
            "unexplained": len(out.unexplained),
        }
        mishaps = {name.replace("_", " "): n for name, n in out.mishaps.items()}
        for table, column in zip(tables, (counts, mishaps, out.duplicates), strict=True):
            for of_kinds in table.values():
                of_kinds.pop(kind, None)
            for name, n in column.items():
                table.setdefault(name, {})[kind] = n
    kinds = [kind for kind in KINDS if kind in tables[0]["put"]]
    lines = []
    for title, table in zip(TITLES, tables, strict=True):
        names = [name for name, of_kinds in table.items() if not title or sum(of_kinds.values())]
        if title:
            names.sort(key=lambda name, of=table: -sum(of[name].values()))
            lines += ["", title, ""]
        lines += ["| | " + " | ".join((*kinds, "all")) + " |", "|---" * (len(kinds) + 2) + "|"]
        for name in names:
            found = [table[name].get(kind, 0) for kind in kinds]
            lines.append(f"| {name} | " + " | ".join(f"{n:,}" for n in (*found, sum(found))) + " |")
    return "\n".join(lines)


def counts_of(text: str) -> Tables:
    """What `cluster_tables` made, read again."""
    tables: Tables = []
    kinds: list[str] = []
    for line in text.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells and not name:
            kinds = cells[:-1]
            tables.append({})
        elif cells and name.strip("-"):
            numbers = (int(cell.replace(",", "")) for cell in cells)
            tables[-1][name] = dict(zip(kinds, numbers, strict=False))
    return tables


def between(page: Path, marks: tuple[str, str]) -> tuple[str, str, str]:
    """The text of a page up to what is between these marks, that, and what follows."""
    begin, end = marks
    head, _, rest = page.read_text().partition(begin)
    text, _, tail = rest.partition(end)
    return head + begin, text, end + tail


def on_a_cluster(
    kind: str, seconds: float, seed: int, directory: Path, say: Callable[[str], None]
) -> Outcome:
    return ClusterTrial(kind, directory, seed).run(seconds, say)


def on_a_server(
    trial: type[Trial],
    kind: str,
    seconds: float,
    seed: int,
    directory: Path,
    say: Callable[[str], None],
) -> Outcome:
    with Server(kind, persistent=True) as server:
        try:
            return trial(server, directory, seed).run(seconds, say)
        finally:
            (directory / "server.log").write_text(server.log)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--servers", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--docs", type=Path, help="the page whose table is written anew")
    parser.add_argument("--celery", action="store_true", help="with Celery, in all its pools")
    parser.add_argument("--cluster", metavar="KINDS", help="on clusters of these kinds of server")
    given = parser.parse_args(words)
    rows: list[tuple[str, float, Outcome]] = []
    for kind in (given.cluster or given.servers).split(","):
        try:
            find_binary(kind)
        except NotAvailable as reason:
            print(f"{kind}: not run, {reason}")
            continue
        directory = Path(tempfile.mkdtemp(prefix="atomq-battle-"))
        trial = CeleryTrial if given.celery else Trial
        run = on_a_cluster if given.cluster else partial(on_a_server, trial)
        try:
            out = run(
                kind,
                given.seconds,
                given.seed,
                directory,
                lambda words, kind=kind: print(f"{kind}: {words}", flush=True),
            )
        except BaseException:
            print(f"{kind}, seed {given.seed}: the ledger and the logs are in {directory}")
            raise
        rows.append((kind, given.seconds, out))
        print(f"{kind}, seed {given.seed}:", json.dumps(out.__dict__, default=str), flush=True)
        if out.is_well:
            shutil.rmtree(directory)
        else:
            print("the ledger and the logs are in", directory)
    if not rows:
        return True
    marks = CLUSTER if given.cluster else CELERY if given.celery else LIBRARY
    head, before, tail = between(given.docs, marks) if given.docs else ("", "", "")
    text = cluster_tables(rows, before) if given.cluster else table(rows)
    print(text)
    if given.docs:
        given.docs.write_text(f"{head}\n{text}\n{tail}")
    return not all(out.is_well for _, _, out in rows)


if __name__ == "__main__":
    sys.exit(main())
