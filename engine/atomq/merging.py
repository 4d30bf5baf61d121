"""What the partitions of a queue answered, as one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from atomq.calls import MAX_BYTES, Counts, Part, Peeked, QueueNumbers, QueueOverview, QueueState
from atomq.errors import ServerUnavailable
from atomq.message import Envelope
from atomq.partitions import letter_mark

T = TypeVar("T")
_LAST = 18446744073709551615  # the highest second part of the id of a dead letter
_COUNTS = ("unacked", "expired", "delayed", "due", "dead")


class Answers(Generic[T]):
    """By partition, what was answered, and by name which did not answer."""

    def __init__(self, queue: str, names: Sequence[str]) -> None:
        self.queue = queue
        self.names = names
        self.found: dict[int, T] = {}
        self.missing: dict[str, ServerUnavailable] = {}

    def all(self, done: str) -> list[T]:
        """The answers of all. Raises `ServerUnavailable` if some are missing."""
        if self.missing:
            names = ", ".join(self.missing)
            raise ServerUnavailable(
                f"{len(self.found)} partitions of {self.queue!r} are {done}, and no answer came "
                f"from {names}: {next(iter(self.missing.values()))}"
            )
        return list(self.found.values())


def state_of(answers: Answers[QueueState]) -> QueueState:
    """The whole queue in numbers. Raises what came instead if no partition answered."""
    states = list(answers.found.values())
    if not states:
        raise next(iter(answers.missing.values()))
    return replace(
        states[0],
        **_added(states),
        name=answers.queue,
        next_deadline_ms=_first(state.next_deadline_ms for state in states),
        inconsistent=sum(state.inconsistent for state in states),
        oldest=min((state.oldest for state in states if state.oldest), key=_put_at, default=b""),
        partitions=tuple(answers.names),
        unanswered=tuple(answers.missing),
    )


def overview_of(
    queue: str, names: Sequence[str], answers: Mapping[str, QueueOverview]
) -> QueueOverview:
    """The whole queue in numbers, as one of many, of the partitions that answered: one at least."""
    parts = tuple(answers[name] for name in names if name in answers)
    reasons = Counter[str]()
    for part in parts:
        reasons.update(part.dead_by_reason)
    return replace(
        parts[0],
        **_added(parts),
        name=queue,
        put_s=_first(part.put_s for part in parts),
        dead_by_reason=dict(reasons),
        partitions=tuple(names),
        unanswered=tuple(name for name in names if name not in answers),
        by_partition=parts,
    )


def _added(parts: Sequence[QueueNumbers]) -> dict[str, Any]:
    """What a state and an overview both have, of all partitions together."""
    ready, stats = Counter[int](), Counter[str]()
    for part in parts:
        ready.update(part.ready_by_priority)
        stats.update(part.stats)
    return {
        "now_ms": max(part.now_ms for part in parts),
        "ready_by_priority": {each: ready[each] for each in parts[0].ready_by_priority},
        **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
        "next_due_ms": _first(part.next_due_ms for part in parts),
        "paused": any(part.paused for part in parts),
        "stats": dict(stats),
    }


def _first(times: Iterable[int | None]) -> int | None:
    return min((each for each in times if each is not None), default=None)


def _put_at(message: bytes) -> float:
    put = Envelope(message).put_s
    return float("inf") if put is None else put


def counts(found: Iterable[Counts]) -> Counts:
    """The sum."""
    return Counts(*map(sum, zip(*found, strict=True)))


# ── messages looked at ────────────────────────────────────────────────────────────────────────


def peeked(part: Part, found: Mapping[int, list[Peeked]], limit: int, offset: int) -> list[Peeked]:
    """Of the messages of each partition (the first `limit + offset` of it) those that are meant.

    Dead letters are named after their partition too. Where one call may not have seen all, since
    they are large, nothing is shown that stands behind what it saw.
    """
    ranked: list[tuple[Any, Peeked]] = []
    end: Any = None
    for at, messages in found.items():
        ranks = [_rank(part, at, i, message) for i, message in enumerate(messages)]
        ranked += zip(ranks, messages, strict=True)
        is_cut = sum(len(message.raw) for message in messages) > MAX_BYTES // 2
        if is_cut and (end is None or ranks[-1] < end):
            end = ranks[-1]
    ranked.sort(key=lambda each: each[0])
    shown = [each for each in ranked if end is None or each[0] <= end][offset : offset + limit]
    if part != "dead":
        return [message for _, message in shown]
    return [replace(message, name=message.name + letter_mark(rank[2])) for rank, message in shown]


def _rank(part: Part, at: int, position: int, message: Peeked) -> tuple[int, int, int]:
    if part == "dead":
        ms, _, number = message.name.partition("-")
        return int(ms), int(number), at
    if part == "ready":
        return message.step, position, at
    return message.step, message.time_ms or 0, at


def behind(after: str, at: int, last: int | None) -> str:
    """Behind which dead letter a partition is to be read, if this one was the last of all."""
    name = after.partition("#")[0]
    if last is None or at <= last:
        return name
    ms, _, number = name.partition("-")  # one of the same id in this partition comes behind it
    if not (ms.isdecimal() and number.isdecimal()):
        return name
    if int(number):
        return f"{ms}-{int(number) - 1}"
    return f"{max(0, int(ms) - 1)}-{_LAST}"
