"""The peers: which adapter, which environment, how it is set up, and what is known not to work."""

from __future__ import annotations

from dataclasses import dataclass, field

ONE_PROCESS = "a process is one consumer, and 64 processes are too many for this machine"


@dataclass(frozen=True)
class Entrant:
    """One line of the tables."""

    name: str
    adapter: str
    """`module:Class` below `benchmarks.peers`."""
    environment: str
    """The file in `benchmarks/environments`, without `.txt`."""
    packages: tuple[str, ...]
    """Whose versions the page names."""
    setup: str
    """How it is set up here, and what a reader must know to compare."""
    ours: bool = False
    most: int = 64
    """Consumers that wait in one process at most; more are more processes."""
    cannot: dict[str, str] = field(default_factory=dict)
    """Workload → why not."""
    deep: bool = True
    """Takes part in the deep backlog: its layout is not that of a line above."""
    quick: bool = True
    """Takes part in `make bench-quick`."""


_CELERY = ("celery", "kombu", "redis")
_SOLO = {"wait 64": ONE_PROCESS}

FIELD: tuple[Entrant, ...] = (
    Entrant(
        "floor: LPUSH, BRPOP",
        "floor:Bare",
        "floor",
        ("redis",),
        "bare commands of redis-py; nothing is acknowledged, what a consumer took dies with it",
    ),
    Entrant(
        "floor: EVALSHA",
        "floor:Scripted",
        "floor",
        ("redis",),
        "three bare scripts (push; pop into a set of leases; remove from it), polled every 10 ms",
        cannot=dict.fromkeys(("wait 1", "wait 16", "wait 64"), "the bare scripts do not wait"),
        deep=False,
    ),
    Entrant(
        "atomq",
        "atomq:Sync",
        "atomq",
        ("atomq", "redis"),
        "`Queue`, `consume(prefetch=1)`: one message a claim",
        ours=True,
    ),
    Entrant(
        "atomq, prefetch 64",
        "atomq:Batches",
        "atomq",
        ("atomq", "redis"),
        "`Queue`, `consume(prefetch=64)`",
        ours=True,
        deep=False,
    ),
    Entrant(
        "atomq, asyncio",
        "atomq:Async",
        "atomq",
        ("atomq", "redis"),
        "`AsyncQueue`, one task, `consume(prefetch=64)`",
        ours=True,
        deep=False,
    ),
    Entrant(
        "kombu on atomq",
        "kombu:Atomq",
        "atomq",
        ("atomq", "kombu", "redis"),
        "`atomq://`, else as stock",
        ours=True,
        deep=False,
    ),
    Entrant(
        "kombu",
        "kombu:Stock",
        "kombu",
        ("kombu", "redis"),
        "`redis://`, default exchange; one consumer with a hub, several by `drain_events`",
    ),
)
