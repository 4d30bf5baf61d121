"""Many queues in numbers, by one call that is cheap enough to be made every few seconds."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from atomq import scripts
from atomq.calls.base import MAX_BYTES, Call, as_pairs, as_text, check_items
from atomq.calls.numbers import QueueNumbers, counters
from atomq.errors import AtomqError, ServerError, WrongType
from atomq.keys import QueueKeys
from atomq.partitions import COPY, PartitionMap, queue_of

_OVERVIEW = scripts.declared(
    "overview",
    keys=(
        *(f"{name} * queue" for name in ("meta", "stats", "unacked", "delayed", "dead")),
        "ready * queue * step",
    ),
    argv=("steps", "spread", "max_bytes"),
)


@dataclass(frozen=True, kw_only=True)
class QueueOverview(QueueNumbers):
    """A queue in numbers, as one of many."""

    put_s: int | None
    """When the next ready message was put, by its producer's clock; None: it does not say.

    Tasks of Celery do not. Nor is it known of messages behind the first MiB of one call.
    """
    dead_by_reason: dict[str, int]
    """How many died since the queue began, by their reason; "other", where there were many."""
    by_partition: tuple[QueueOverview, ...] = ()
    """The partitions that answered, each by itself, in their order."""

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the next ready message, in seconds; None: there is none, or not known."""
        return None if self.put_s is None else max(0.0, self.now_ms / 1000 - self.put_s)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there of this queue, not even counters."""
        return not (self.ready or self.unacked or self.delayed or self.dead or self.stats)


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
