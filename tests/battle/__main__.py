"""Run trials and write what they counted into docs/reliability.md: `make battle`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--servers", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--docs", type=Path, help="the page whose table is written anew")
    given = parser.parse_args()
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
        page = given.docs.read_text()
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        given.docs.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
    return any(out.lost or out.innocent or out.unexplained for _, _, out in rows)


if __name__ == "__main__":
    sys.exit(main())
