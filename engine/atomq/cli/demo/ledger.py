"""What the demo counts, what of it had to hold, and whether it did."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.text import Text

from atomq import Peeked
from atomq.cli.output import Column, number, table

MISSING = "no/such/file.py"
SLACK = 1.0  # seconds after its end within which a lease must have been handed on
PUNCTUAL = 0.005  # seconds by which two clocks of one machine may differ in what they round


class Entry(NamedTuple):
    """One line of the ledger. `holds`: None where the figure promises nothing."""

    name: str
    value: float | None
    note: str = ""
    holds: bool | None = None


@dataclass
class Ledger:
    """Results as they come; at the end it judges."""

    lease: float
    paths: Sequence[str]
    not_before: dict[str, float] = field(default_factory=dict)
    server: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False
    held: dict[str, str] = field(default_factory=dict)
    """Receipts that dead workers held, and their files."""
    back: list[float] = field(default_factory=list)
    """How many seconds after its worker's death each of them was in other hands."""
    dead: list[Peeked] = field(default_factory=list)
    left: int = 0
    entries: list[Entry] = field(default_factory=list)

    def judge(self, root: Path) -> None:
        """Compute everything again, and compare."""
        first = {r["path"]: r["sha256"] for r in reversed(self.results)}
        digests = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in first}
        wrong = sum(first[path] != digests[path] for path in first)
        right = f"{number(wrong)} wrong" if wrong else "each digest is what is computed here"
        named = [str(letter.body["path"]) for letter in self.dead]
        lost = max(0, len({*self.paths, MISSING} - first.keys() - set(named)) - self.left)
        twice = [first[r["path"]] == r["sha256"] for r in self.results]
        early = sum(r["began"] < self.not_before.get(r["path"], 0) - PUNCTUAL for r in self.results)
        again = {r["path"] for r in self.results if r["deliveries"] > 1}
        stolen = len(again - {*self.held.values()})
        whose = f"{stolen} of them although their holder was alive"
        whose = whose if stolen else "what a dead worker held, and nothing else"
        worst, within = max(self.back, default=999), self.lease + SLACK
        back = f"seconds; the lease is {self.lease:g} s, so {within:g} s at most"
        all_back = 0 < len(self.held) == len(self.back)
        back = back if all_back else f"{len(self.back)} of {len(self.held)} that dead workers held"
        count, every = len(first), "every file, and one that does not exist"
        self.entries = [
            Entry("published", len(self.paths) + 1, every),
            Entry("completed", count, right, count == len(self.paths) and not wrong),
            Entry("lost", lost, "neither done nor in the queue", lost == 0),
            Entry("left over", self.left, "still in the queue", self.left == 0),
            Entry("dead letters", len(named), ", ".join(named[:2]), named == [MISSING]),
            Entry("duplicates", len(twice) - count, "all equal" * all(twice), all(twice)),
            Entry("delayed", len(self.not_before), f"{early or 'none'} too early", early == 0),
            Entry("redelivered", len(again), whose, stolen == 0),
            Entry("came back", worst if all_back else None, back, all_back and worst <= within),
        ]

    @property
    def faults(self) -> list[str]:
        """What does not hold."""
        return [f"{e.name}: {e.value} ({e.note})" for e in self.entries if e.holds is False]

    def facts(self) -> dict[str, Any]:
        """For machines; see `demo` in schemas/cli.schema.json."""
        about = {"ok": not self.faults, "faults": self.faults, "server": self.server}
        figures = {entry.name.replace(" ", "_"): entry.value for entry in self.entries}
        return about | figures | {"held": len(self.held)}

    def table(self, console: Console) -> Group:
        """For people, with one line that says whether it holds."""
        ok = not self.faults
        yes, no = "✔✗" if console.encoding.lower().startswith("utf") else "+x"
        marks = {True: Text(yes, "green"), False: Text(no, "bold red"), None: Text()}
        values = ["-" if e.value is None else f"{e.value:,}" for e in self.entries]
        both = zip(self.entries, values, strict=True)
        rows = [(marks[e.holds], e.name, value, Text(e.note, "dim")) for e, value in both]
        columns = [Column(""), Column(""), Column("", "right"), Column("", folds=True)]
        verdict = "Everything holds." if ok else "Not everything holds."
        last = Text.assemble(marks[ok], " ", (verdict, "bold"))
        return Group(Text(""), table(columns, rows, console.width), Text(""), last)
