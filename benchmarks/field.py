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
    stored_as: str = ""
    """The line whose messages are stored alike: that one shows what a deep backlog does."""
    quick: bool = True
    """Takes part in `make bench-quick`."""


_CELERY = ("celery", "kombu", "redis")
_ONE = {"wait 64": ONE_PROCESS}
_PREFORK = dict.fromkeys(("wait 16", "wait 64"), "two processes are one consumer")

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
        stored_as="floor: LPUSH, BRPOP",
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
        stored_as="atomq",
    ),
    Entrant(
        "atomq, asyncio",
        "atomq:Async",
        "atomq",
        ("atomq", "redis"),
        "`AsyncQueue`, one task, `consume(prefetch=64)`",
        ours=True,
        stored_as="atomq",
    ),
    Entrant(
        "kombu on atomq",
        "kombu:Atomq",
        "atomq",
        ("atomq", "kombu", "redis"),
        "`atomq://`, else as kombu",
        ours=True,
        stored_as="atomq",
    ),
    Entrant(
        "Celery on atomq",
        "celery:Atomq",
        "atomq",
        ("atomq", *_CELERY),
        "`atomq://`, else as Celery",
        ours=True,
        most=1,
        cannot=_ONE,
        stored_as="atomq",
    ),
    Entrant(
        "Celery on atomq, prefork",
        "celery:AtomqPrefork",
        "atomq",
        ("atomq", *_CELERY),
        "`atomq://`, else as Celery, prefork",
        ours=True,
        most=1,
        cannot=_PREFORK,
        stored_as="atomq",
        quick=False,
    ),
    Entrant(
        "kombu",
        "kombu:Stock",
        "celery",
        ("kombu", "redis"),
        "`redis://`, default exchange; one consumer with a hub, several by `drain_events`",
    ),
    Entrant(
        "Celery",
        "celery:Stock",
        "celery",
        _CELERY,
        "`redis://`, solo pool, `acks_late`, without gossip, mingle and heartbeat; a task with an "
        "`eta` is fetched into the worker's memory and waits there",
        most=1,
        cannot=_ONE,
    ),
    Entrant(
        "Celery, prefork",
        "celery:StockPrefork",
        "celery",
        _CELERY,
        "as Celery, with the prefork pool and one child",
        most=1,
        cannot=_PREFORK,
        stored_as="Celery",
        quick=False,
    ),
    Entrant(
        "celery-redis-plus",
        "celery:Plus",
        "celery-redis-plus",
        ("celery-redis-plus", *_CELERY),
        "as Celery, with `broker_transport`; its release asks for Python 3.13, here on the same "
        "Python as all",
        most=1,
        cannot=_ONE,
    ),
    Entrant(
        "dramatiq",
        "dramatiq:Dramatiq",
        "dramatiq",
        ("dramatiq", "redis"),
        "eight threads a worker; where several wait, one each; delayed messages are fetched into "
        "the worker's memory, 8,000 at once",
    ),
    Entrant(
        "rq",
        "rq:Rq",
        "rq",
        ("rq", "redis"),
        "`SimpleWorker` (the default worker forks for each job), `result_ttl=0`",
        most=1,
        cannot=_ONE,
    ),
    Entrant(
        "huey",
        "huey:Huey",
        "huey",
        ("huey", "redis"),
        "`RedisHuey`, one thread a consumer; nothing is acknowledged, what a consumer took dies "
        "with it; a delayed task goes through the queue, from which a consumer moves it",
    ),
    Entrant(
        "arq",
        "arq:Arq",
        "arq",
        ("arq", "redis"),
        "ten jobs at once a worker, which looks twice a second; `keep_result=0`",
    ),
    Entrant("saq", "saq:Saq", "saq", ("saq", "redis"), "ten jobs at once a worker; `ttl=-1`"),
    Entrant(
        "taskiq, stream",
        "taskiq:Stream",
        "taskiq",
        ("taskiq", "taskiq-redis", "redis"),
        '`RedisStreamBroker` (the one that acknowledges) with `consumer_id="0-0"`; entries stay in '
        "the stream after their ack",
    ),
    Entrant(
        "streaQ",
        "streaq:Streaq",
        "streaq",
        ("streaq", "coredis"),
        "16 tasks at once a worker; `ttl=0`",
    ),
    Entrant(
        "BullMQ (Python)",
        "bullmq:Bullmq",
        "bullmq",
        ("bullmq", "redis"),
        "one job at once a worker; `removeOnComplete`",
    ),
)
