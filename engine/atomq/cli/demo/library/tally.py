"""What the first act counts: results as they come."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from atomq import Peeked
from atomq.message import Envelope

PUNCTUAL = 0.005  # seconds by which two clocks of one machine may differ in what they round


def path_of(peeked: Peeked) -> str:
    """The file a message is about."""
    return str(Envelope(peeked.raw).body()["path"])


class Tally:
    """Results, as they come."""

    def __init__(self, paths: Sequence[str], missing: str) -> None:
        self.paths = list(paths)
        self.missing = missing
        self.found: dict[str, tuple[str, int]] = {}
        self.deliveries: Counter[str] = Counter()
        self.by_worker: Counter[int] = Counter()
        self.results = 0
        self.repeated: set[str] = set()
        """Files with more than one result."""
        self.unequal = 0
        """Results that came again and were not the same."""
        self.wrong = 0
        """Files whose digest or line count is not what it should be."""
        self.not_before: dict[str, float] = {}
        self.early: list[str] = []
        self.first_at = self.last_at = 0.0
        self.published = 0
        self.publishing = 0.0
        """Messages a second, in the first and biggest call."""
        self.overtaken = 0
        self.urgent_seconds: float | None = None

    def add(self, result: dict[str, Any]) -> None:
        """One result."""
        path, facts = result["path"], (result["sha256"], result["lines"])
        self.results += 1
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self.by_worker[result["worker"]] += 1
        self.deliveries[path] = max(self.deliveries[path], result["deliveries"])
        if path in self.found:
            self.repeated.add(path)
        self.unequal += self.found.setdefault(path, facts) != facts
        if result["began"] < self.not_before.get(path, 0.0) - PUNCTUAL:
            self.early.append(path)

    def has_all(self, paths: Iterable[str]) -> bool:
        """Whether there is a result for each of these."""
        return all(path in self.found for path in paths)

    def check(self, root: Path) -> None:
        """Compute everything again, here and in another way, and compare."""
        for path, facts in self.found.items():
            content = (root / path).read_bytes()
            self.wrong += facts != (hashlib.sha256(content).hexdigest(), content.count(b"\n"))

    @property
    def completed(self) -> int:
        """Files with a result."""
        return len(self.found)

    @property
    def duplicates(self) -> int:
        """Results beyond the first of their file."""
        return self.results - len(self.found)

    @property
    def redelivered(self) -> set[str]:
        """Files that were handed out more than once."""
        return {path for path, count in self.deliveries.items() if count > 1}

    @property
    def per_second(self) -> float:
        """Files a second, from the first result to the last."""
        span = self.last_at - self.first_at
        return self.completed / span if span > 0 else 0.0
