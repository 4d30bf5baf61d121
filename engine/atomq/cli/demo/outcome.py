"""What an act ends with: figures, what had to hold, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of a ledger."""

    name: str
    value: str
    note: str = ""
    holds: bool | None = None
    """Whether what had to be is so; None: a figure that promises nothing."""


@dataclass
class Outcome:
    """The ledger of one act."""

    act: str
    facts: dict[str, Any]
    """The same as `entries` for machines; see `demo` in schemas/cli.schema.json."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What does not hold."""
        return [f"{e.name}: {e.value} {e.note}".strip() for e in self.entries if e.holds is False]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.faults


def report(outcomes: Sequence[Outcome], server: str) -> dict[str, Any]:
    """What `atomq demo --json` prints."""
    acts = [{"act": o.act, "ok": o.ok, "faults": o.faults, **o.facts} for o in outcomes]
    return {"ok": all(o.ok for o in outcomes), "server": server, "acts": acts}


def rounded(seconds: float | None) -> float | None:
    """Seconds as a machine may like them."""
    return None if seconds is None else round(seconds, 3)
