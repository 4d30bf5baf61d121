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


def cluster_table(kind: str, seconds: float, out: Outcome) -> str:
    columns = ("server", "time", "put", "started", "mishaps", "lost", "started again")
    counts = [out.put, out.starts, sum(out.mishaps.values()), len(out.lost)]
    counts += [sum(out.duplicates.values()), len(out.unexplained)]
    lines = ["| " + " | ".join((*columns, "unexplained")) + " |", "|---" * 8 + "|"]
    lines.append(f"| {kind} | {seconds:.0f} s | " + " | ".join(f"{n:,}" for n in counts) + " |")
    return "\n".join(lines + listed(out.mishaps, out.duplicates))


def written(page: Path, marks: tuple[str, str], text: str) -> None:
    begin, end = marks
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


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
        return trial(server, directory, seed).run(seconds, say)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--servers", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--docs", type=Path, help="the page whose table is written anew")
    parser.add_argument("--celery", action="store_true", help="with Celery, in all its pools")
    parser.add_argument("--cluster", metavar="KIND", help="on a cluster of this kind of server")
    given = parser.parse_args(words)
    rows: list[tuple[str, float, Outcome]] = []
    for kind in [given.cluster] if given.cluster else given.servers.split(","):
        try:
            find_binary(kind)
        except NotAvailable as reason:
            print(f"{kind}: not run, {reason}")
            continue
        directory = Path(tempfile.mkdtemp(prefix="atomq-battle-"))
        trial = CeleryTrial if given.celery else Trial
        run = on_a_cluster if given.cluster else partial(on_a_server, trial)
        out = run(
            kind,
            given.seconds,
            given.seed,
            directory,
            lambda words, kind=kind: print(f"{kind}: {words}", flush=True),
        )
        rows.append((kind, given.seconds, out))
        print(f"{kind}, seed {given.seed}:", json.dumps(out.__dict__, default=str), flush=True)
        if out.is_well:
            shutil.rmtree(directory)
        else:
            print("the ledger and the logs are in", directory)
    if not rows:
        return True
    text = cluster_table(*rows[0]) if given.cluster else table(rows)
    print(text)
    if given.docs:
        marks = CLUSTER if given.cluster else CELERY if given.celery else LIBRARY
        written(given.docs, marks, text)
    return not all(out.is_well for _, _, out in rows)


if __name__ == "__main__":
    sys.exit(main())
