"""What the page remembers of queues: their last minutes, for rates and for a small curve each.

Each view of the page takes a sample, in this process only: while no page is open, the server is not
asked, and a page that is opened anew has no past.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

APART_MS = 2_000  # between two samples of a queue
RATE_MS = 60_000  # what a rate is the average of
_SAMPLES = 60  # a queue
_QUEUES = 2_000

WIDTH, HEIGHT = 90, 22


class Sample(NamedTuple):
    """A queue at one moment."""

    ms: int
    """By the server's clock."""
    backlog: int
    """Ready, due and expired: what a consumer could have now."""
    put: int
    """Messages published since the queue began."""
    done: int
    """Messages acked and completed since then."""


class Seen(NamedTuple):
    """What the samples of a queue tell."""

    put: float | None
    """Messages a second; None: too little is known."""
    done: float | None
    curve: str
    """The backlog as points of an SVG polyline; "": too little is known."""
    most: int
    """The highest backlog in it."""
    seconds: int
    """How far back it goes."""


class Samples:
    """Those of all queues, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[Sample]] = OrderedDict()

    def note(self, samples: Mapping[str, Sample]) -> dict[str, Seen]:
        """Add these, by the names of their queues; what is known now."""
        with self._lock:
            seen = {name: _told(self._added(name, sample)) for name, sample in samples.items()}
            while len(self._queues) > max(_QUEUES, len(samples)):
                self._queues.popitem(last=False)
        return seen

    def _added(self, name: str, sample: Sample) -> list[Sample]:
        kept = self._queues.setdefault(name, deque(maxlen=_SAMPLES))
        self._queues.move_to_end(name)
        if kept and (sample.ms < kept[-1].ms or sample.put < kept[-1].put):
            kept.clear()  # the queue, or the server, began anew
        if not kept or sample.ms >= kept[-1].ms + APART_MS:
            kept.append(sample)
            return list(kept)
        return [*kept, sample]


def _told(samples: list[Sample]) -> Seen:
    first, last = samples[0], samples[-1]
    since = next(one for one in samples if one.ms >= last.ms - RATE_MS)
    seconds = (last.ms - since.ms) / 1000
    put = done = None
    if seconds >= 1:
        put = max(0, last.put - since.put) / seconds
        done = max(0, last.done - since.done) / seconds
    most = max(one.backlog for one in samples)
    return Seen(put, done, _curve(samples, most), most, (last.ms - first.ms) // 1000)


def _curve(samples: list[Sample], most: int) -> str:
    """Time from left to right, the backlog from the bottom up."""
    first, last = samples[0].ms, samples[-1].ms
    if last - first < APART_MS:
        return ""
    across = (WIDTH - 2) / (last - first)
    up = (HEIGHT - 4) / max(1, most)
    points = [(1 + (s.ms - first) * across, HEIGHT - 2 - s.backlog * up) for s in samples]
    kept = [points[0]] + [b for a, b in pairwise(points) if a != b]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
