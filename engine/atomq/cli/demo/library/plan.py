"""What is published: every file, and the part it plays."""

from __future__ import annotations

import os
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomq import Item

MISSING = "no/such/file.py"
NORMAL, URGENT = 3, 0  # priorities: 0 goes first
LONG_LEASES = 1.5  # so many leases the longest job takes
HOLD = 0.4  # seconds of work a worker takes at once, so that somebody claims often enough
MOST_HELD = 16  # and never more messages than this


def standard_library(most: int | None = None) -> tuple[Path, list[tuple[str, int]]]:
    """Where it is, and its files with their sizes."""
    root = Path(sysconfig.get_path("stdlib"))
    apart = {"site-packages", "dist-packages", "__pycache__"}
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - apart)
        for name in sorted(names):
            path = Path(place, name)
            try:
                with path.open("rb") as file:
                    count = os.fstat(file.fileno()).st_size
            except OSError:
                continue  # not ours to read
            found.append((str(path.relative_to(root)), count))
    if most is not None and len(found) > most:
        found = sorted(random.Random(0).sample(found, most))
    return root, found


@dataclass(frozen=True)
class Plan:
    """Which file plays which part, and how fast it goes. The same plan for the same files."""

    root: Path
    paths: list[str]
    bytes: int
    longest: str
    long_seconds: float
    delays: dict[str, float]
    urgent: list[str]
    normal: list[str]
    pace: float
    """Seconds a worker takes for a file, at least."""
    prefetch: int

    @classmethod
    def of(cls, workers: int, seconds: float, lease: float, most: int | None) -> Plan:
        """The plan for so many workers and seconds."""
        root, files = standard_library(most)
        chance = random.Random(1)
        longest = max(files, key=lambda file: file[1])[0]
        rest = [path for path, _ in files if path != longest]
        chance.shuffle(rest)
        few = max(3, min(40, len(rest) // 20))
        delayed, urgent, normal = rest[:few], rest[few : few + few // 3], rest[few + few // 3 :]
        pace = min(HOLD / 2, seconds * workers / len(files))
        spread = max(2.0, 0.6 * pace * len(files) / workers)
        often = int(HOLD / pace) if pace else MOST_HELD
        fair = len(files) // (workers * 4)
        return cls(
            root=root,
            paths=[path for path, _ in files],
            bytes=sum(count for _, count in files),
            longest=longest,
            long_seconds=lease * LONG_LEASES,
            delays={path: round(chance.uniform(0.5, spread), 1) for path in delayed},
            urgent=urgent,
            normal=sorted(normal),
            pace=pace,
            prefetch=max(2, min(MOST_HELD, fair, often)),
        )

    def first(self) -> list[Item]:
        """Everything but the urgent ones."""
        long: dict[str, Any] = {"path": self.longest, "seconds": self.long_seconds}
        items = [Item(long, priority=URGENT)]
        for path, delay in self.delays.items():
            items.append(Item({"path": path}, delay=delay, priority=NORMAL))
        items += [Item({"path": path}, priority=NORMAL) for path in self.normal]
        items.insert(len(items) // 8, Item({"path": MISSING}, priority=NORMAL))
        return items

    def then(self) -> list[Item]:
        """The urgent ones, put in the middle of the work."""
        return [Item({"path": path}, priority=URGENT) for path in self.urgent]
