"""Run trials and write what they counted into docs/reliability.md: `make battle`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.battle.cluster import ClusterTrial
from tests.battle.trial import Outcome, Trial
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
BEGIN, END = "<!-- battle -->", "<!-- end -->"
BEGIN_CLUSTER, END_CLUSTER = "<!-- battle on a cluster -->", "<!-- end on a cluster -->"


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
    why: Counter[str] = Counter()
    for _, _, out in rows:
        why += out.duplicates
    lines += ["", "Started again, because:", ""]
    lines += [f"- {words}: {n:,}" for words, n in why.most_common()]
    return "\n".join(lines)


def cluster_table(kind: str, seconds: float, out: Outcome) -> str:
    columns = ("server", "time", "put", "started", "mishaps", "lost", "started again")
    counts = [out.put, out.starts, sum(out.mishaps.values()), len(out.lost)]
    counts += [sum(out.duplicates.values()), len(out.unexplained)]
    lines = ["| " + " | ".join((*columns, "unexplained")) + " |", "|---" * 8 + "|"]
    lines.append(f"| {kind} | {seconds:.0f} s | " + " | ".join(f"{n:,}" for n in counts) + " |")
    for title, found in (("Mishaps:", out.mishaps), ("Started again, because:", out.duplicates)):
        lines += ["", title, ""]
        lines += [f"- {words.replace('_', ' ')}: {n:,}" for words, n in found.most_common()]
    return "\n".join(lines)


def written(page: Path, begin: str, end: str, text: str) -> None:
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def on_a_cluster(kind: str, seconds: float, seed: int, docs: Path | None) -> bool:
    """Whether all went well."""
    directory = Path(tempfile.mkdtemp(prefix="atomq-battle-"))
    trial = ClusterTrial(kind, directory, seed)
    out = trial.run(seconds, lambda words: print(f"{kind}: {words}", flush=True))
    print(f"{kind}, seed {seed}:", json.dumps(out.__dict__, default=str))
    text = cluster_table(kind, seconds, out)
    print(text)
    if docs:
        written(docs, BEGIN_CLUSTER, END_CLUSTER, text)
    if out.lost or out.unexplained:
        print("the logs of all are in", directory)
        return False
    shutil.rmtree(directory)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--servers", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--docs", type=Path, help="the page whose table is written anew")
    parser.add_argument("--cluster", metavar="KIND", help="on a cluster of this kind of server")
    given = parser.parse_args()
    if given.cluster:
        return not on_a_cluster(given.cluster, given.seconds, given.seed, given.docs)
    rows = []
    for kind in given.servers.split(","):
        try:
            find_binary(kind)
        except NotAvailable as reason:
            print(f"{kind}: not run, {reason}")
            continue
        with Server(kind, persistent=True) as server, tempfile.TemporaryDirectory() as directory:
            trial = Trial(server, Path(directory) / "ledger", given.seed)
            out = trial.run(given.seconds, lambda words, kind=kind: print(f"{kind}: {words}"))
        rows.append((kind, given.seconds, out))
        print(f"{kind}, seed {given.seed}:", json.dumps(out.__dict__, default=str))
    text = table(rows)
    print(text)
    if given.docs:
        written(given.docs, BEGIN, END, text)
    return any(out.lost or out.innocent or out.unexplained for _, _, out in rows)


if __name__ == "__main__":
    sys.exit(main())
