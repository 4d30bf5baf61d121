"""Many queues in numbers, by one call that is cheap enough to be made every few seconds."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atomq import scripts
from atomq.calls.base import MAX_BYTES, Call, as_pairs, as_text, check_items
from atomq.errors import AtomqError, ServerError, WrongType
from atomq.keys import QueueKeys
from atomq.partitions import COPY, PartitionMap, queue_of

_DEAD = "dead:"  # in the counters: how many died of what follows

_OVERVIEW = scripts.declared(
    "overview",
    keys=(
        *(f"{name} * queue" for name in ("meta", "stats", "unacked", "delayed", "dead")),
        "ready * queue * step",
    ),
    argv=("steps", "spread", "max_bytes"),
)


@dataclass(frozen=True)
class QueueOverview:
    """A queue in numbers, as one of many."""

    name: str
    now_ms: int
    """The server's clock."""
    ready_by_priority: dict[int, int]
    unacked: int
    """Held by consumers, with those whose leases ended."""
    expired: int
    """Unacked messages past their deadline: the next claim gets them."""
    delayed: int
    due: int
    """Delayed messages that are due: the next claim gets them."""
    dead: int
    """Dead letters that are there now."""
    next_due_ms: int | None
    """When the next delayed message falls due, or fell due."""
    put_s: int | None
    """When the next ready message was put, by its producer's clock; None: it does not say.

    Tasks of Celery do not. Nor is it known of messages behind the first MiB of one call.
    """
    paused: bool
    stats: dict[str, int]
    """How many messages were published, delivered, acked, … since the queue began."""
    dead_by_reason: dict[str, int]
    """How many died since the queue began, by their reason; "other", where there were many."""
    partitions: tuple[str, ...] = ()
    """The names of those it is spread over; none: the register has none of them.

    On a cluster a partition knows those too, of the queue that it belongs to.
    """
    unanswered: tuple[str, ...] = ()
    """The partitions that could not be read, and are not counted in."""
    by_partition: tuple[QueueOverview, ...] = ()
    """The others, each by itself, in their order."""

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer, of all priorities."""
        return sum(self.ready_by_priority.values())

    @property
    def backlog(self) -> int:
        """What a consumer could claim now: ready, due and expired."""
        return self.ready + self.due + self.expired

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the next ready message, in seconds; None: there is none, or not known."""
        return None if self.put_s is None else max(0.0, self.now_ms / 1000 - self.put_s)

    @property
    def next_due_seconds(self) -> float | None:
        """Seconds until the next delayed message is due, below 0 if it is; None: there is none."""
        return None if self.next_due_ms is None else (self.next_due_ms - self.now_ms) / 1000

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there of this queue, not even counters."""
        return not (self.ready or self.unacked or self.delayed or self.dead or self.stats)


def counters(pairs: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """What the server counts of a queue: how much of what happened; how many died, by reason."""
    stats, reasons = dict[str, int](), dict[str, int]()
    for name, value in pairs.items():
        if name.startswith(_DEAD):
            reasons[name.removeprefix(_DEAD)] = int(value)
        else:
            stats[name] = int(value)
    return stats, reasons


def overview(
    queues: Sequence[QueueKeys], *, whole: Container[str] = (), max_bytes: int = MAX_BYTES
) -> Call[list[QueueOverview | AtomqError]]:
    """These queues (1,000 at most) in numbers; changes nothing.

    A `WrongType` stands in the place of a queue that cannot be read; alone, it is raised. Of ready
    messages the script reads `max_bytes` and one more, for their age. In a cluster all queues must
    live in one slot. Of those whose names are in `whole` no partitions are asked for.
    """
    check_items("queues", queues)
    keys = [key for queue in queues for key in queue.overview[:2]]  # the hashes of all
    keys += [key for queue in queues for key in queue.overview[2:]]

    def parse(reply: Any, _repeated: bool) -> list[QueueOverview | AtomqError]:
        now, *texts = reply
        return [_read(queue, now, text) for queue, text in zip(queues, texts, strict=True)]

    spread = "".join("0" if queue.name in whole else "1" for queue in queues)
    args = [len(queues[0].steps), spread, max_bytes]
    return Call(_OVERVIEW, queues[0], keys, args, parse, large=True)


def _read(keys: QueueKeys, now_ms: int, text: bytes) -> QueueOverview | AtomqError:
    if text[:1] == b"!":
        return WrongType(as_text(text[1:]))
    flat = text.split(b"\n")
    head = flat.pop(0) if text[:1].isdigit() else b"0"
    paused, *numbers = map(int, head.split())
    steps = len(keys.steps)
    if not numbers:
        numbers = [0] * (steps + 5) + [-1, -1]
    unacked, expired, delayed, due, dead, next_due, put = numbers[steps:]
    pairs = as_pairs(flat[: len(flat) // 2 * 2])
    record = pairs.pop("partitions", "")
    try:
        stats, reasons = counters(pairs)
    except ValueError:
        return WrongType(f"{keys.stats} holds what is no count")
    try:
        whole = queue_of(keys.name) if record.startswith(COPY) else keys.name
        partitions = PartitionMap.names_of(whole, record.removeprefix(COPY))
    except ServerError as error:
        return error
    return QueueOverview(
        name=keys.name,
        now_ms=now_ms,
        ready_by_priority=dict(zip(keys.steps, numbers, strict=False)),
        unacked=unacked,
        expired=expired,
        delayed=delayed,
        due=due,
        dead=dead,
        next_due_ms=None if next_due < 0 else next_due,
        put_s=None if put < 0 else put,
        paused=bool(paused),
        stats=stats,
        dead_by_reason=reasons,
        partitions=partitions if keys.name in partitions else (),
    )
