"""Reading a queue, and what a user may do: inspect, peek, probe. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from atomq import arguments, fork, scripts
from atomq.calls.base import MAX_BYTES, MOST, QUEUE, Call, Part, as_pairs, as_text, check_names
from atomq.calls.numbers import QueueNumbers, counters
from atomq.durability import Durability
from atomq.keys import ExchangeKeys, QueueKeys, RegisterKeys
from atomq.message import Envelope
from atomq.partitions import PartitionMap
from atomq.serializers import JSON, Serializer

_INSPECT = scripts.declared("inspect", keys=(*QUEUE, "ready * step"), argv=())


@dataclass(frozen=True, kw_only=True)
class QueueState(QueueNumbers):
    """A queue in numbers."""

    next_deadline_ms: int | None
    """When the next lease ends, or ended; None: nothing is held."""
    inconsistent: int
    """Entries that have lost their other half; 0 unless another program wrote to the keys."""
    oldest: bytes
    """The next message out, if it is smaller than 64 KiB."""


def inspect(keys: QueueKeys) -> Call[QueueState]:
    """A queue in numbers; changes nothing."""

    def parse(reply: Any, _repeated: bool) -> QueueState:
        (now, ready, unacked, expired, delayed, due, dead, next_due, deadline) = reply[:9]
        meta = as_pairs(reply[12])
        return QueueState(
            name=keys.name,
            now_ms=now,
            ready_by_priority=dict(zip(keys.steps, ready, strict=True)),
            unacked=unacked,
            expired=expired,
            delayed=delayed,
            due=due,
            dead=dead,
            next_due_ms=next_due if next_due >= 0 else None,
            next_deadline_ms=deadline if deadline >= 0 else None,
            paused=meta.get("paused") == "1",
            inconsistent=reply[9] + reply[10],
            oldest=reply[11],
            stats=counters(as_pairs(reply[13]))[0],
            partitions=PartitionMap.names_of(keys.name, meta.get("partitions", "")),
        )

    return Call(_INSPECT, keys, keys.inspect, (), parse)


_PEEK = scripts.declared(
    "peek",
    keys=("unacked", "records", "delayed", "delayed_records", "dead", "ready * step"),
    argv=("part", "after", "offset", "limit", "max_bytes", "id * item"),
)


@dataclass(frozen=True)
class Peeked:
    """One message looked at."""

    name: str
    """Its receipt (unacked), id (delayed) or stream id (dead); "" when ready."""
    time_ms: int | None
    """When its lease ends (unacked), it falls due (delayed) or it died (dead)."""
    deliveries: int
    step: int
    since_ms: int | None
    """When it was claimed (unacked) or published (delayed)."""
    reason: str
    detail: str
    raw: bytes
    """The envelope as it lies in the server."""
    serializer: Serializer = field(default=JSON, repr=False, compare=False)

    @property
    def holder(self) -> str:
        """The consumer that holds it: the front of its receipt."""
        return self.name.rpartition("-")[0]

    @property
    def process(self) -> str:
        """The name of the process that holds it, as in the register: see `roster`."""
        return self.holder[: fork.NAME]

    @property
    def id(self) -> str:
        """Its message id. Raises `InvalidMessage` if it cannot be read."""
        return Envelope(self.raw).id

    @property
    def body(self) -> Any:
        """What was put. Raises `InvalidMessage` if it cannot be decoded."""
        return Envelope(self.raw).body(self.serializer)


def peek(
    keys: QueueKeys,
    part: Part,
    *,
    limit: int = 20,
    offset: int = 0,
    after: str = "",
    max_bytes: int = MAX_BYTES,
    ids: Sequence[str] = (),
    serializer: Serializer = JSON,
) -> Call[list[Peeked]]:
    """Look at messages in the order they would be handed out; changes nothing.

    Dead letters are paged by `after`, the stream id of the last one seen; the others by `offset`.
    Of what is delayed or unacked, `ids` (1,000 at most) names single ones, and those that are there
    are answered in its order. `serializer` is that of the queue, for their bodies.
    """
    check_names("part and after", (part, after))
    check_names("ids", ids, least=0)
    args = [
        part,
        after,
        arguments.whole("offset", offset, 0, 10**9),
        arguments.whole("limit", limit, 1, MOST),
    ]

    def parse(reply: Any, _repeated: bool) -> list[Peeked]:
        flat = reply[1]
        return [_peeked(part, serializer, *flat[i : i + 6]) for i in range(0, len(flat), 6)]

    return Call(_PEEK, keys, keys.peek, [*args, max_bytes, *ids], parse, large=True)


def _peeked(
    part: Part,
    serializer: Serializer,
    name: bytes,
    ms: int,
    deliveries: int,
    step: int,
    about: bytes,
    raw: bytes,
) -> Peeked:
    reason, _, detail = as_text(about).partition("\n") if part == "dead" else ("", "", "")
    died = int(name.partition(b"-")[0]) if part == "dead" else None
    since = int(about) if part != "dead" and about else None
    return Peeked(
        as_text(name),
        died or (ms if ms >= 0 else None),
        deliveries,
        step,
        since,
        reason,
        detail,
        raw,
        serializer,
    )


_PROBE = scripts.declared("probe", keys=("probe",), argv=())


def probe(
    keys: QueueKeys | RegisterKeys | ExchangeKeys, durability: Durability | None = None
) -> Call[dict[str, str]]:
    """The commands inside the scripts that this user may not run, with the server's words.

    It writes a scratch key, so that a `durability` can be tried on it.
    """
    return Call(
        _PROBE, keys, (keys.probe,), (), lambda reply, _: as_pairs(reply), durability=durability
    )
