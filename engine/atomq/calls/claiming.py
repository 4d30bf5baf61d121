"""Leasing messages, and looking whether there are any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from atomq import arguments, scripts
from atomq.calls.base import (
    FEW,
    LOOKED,
    MAX_BYTES,
    MOST,
    NO_CAP,
    QUEUE,
    SOLE,
    Call,
    as_text,
    check_items,
    id_of,
    renewal_ms,
    tracked_last,
)
from atomq.delivery import Delivery
from atomq.keys import QueueKeys

_CLAIM = scripts.declared(
    "claim",
    keys=(
        *(f"{name} * queue" for name in (*QUEUE, "track0", "track1", "cancelled")),
        "ready * queue * step",
        "looked * cluster",
    ),
    argv=(
        "claim_id",
        "attempt",
        "limit",
        "lease_ms",
        "renew_ms",
        "max_deliveries",
        "max_bytes",
        "steps",
        "company",
        "keep",
        "acks * queue",
    ),
)
_ATTEMPT_AT = 1  # of the arguments, from 0
_new: Any = tuple.__new__  # all fields at once, in a third of the time of a NamedTuple


class DeadLettered(NamedTuple):
    """One message that a claim moved to dead letters, instead of handing it out."""

    queue: str
    reason: str
    detail: str
    raw: bytes
    """The envelope as it lay in the server."""

    @property
    def id(self) -> str:
        """Its message id; "" where it cannot be read."""
        # Where the record was corrupt, it is what the message was delayed under.
        return id_of(self.raw) or (self.detail if self.reason == "corrupt" else "")


class Claimed(NamedTuple):
    """What `claim` got."""

    now_ms: int
    wait_ms: int | None
    """Claim again in so many ms, for a delayed message; None: another consumer keeps the time."""
    more: tuple[str, ...]
    """Queues that have more to claim now."""
    lost_acks: tuple[tuple[str, str], ...]
    """Queue and receipt of acks that rode along and found nothing."""
    deliveries: list[Delivery]
    dead_lettered: Sequence[DeadLettered] = ()
    """For `tell`: no other consumer knows of them."""
    alone: bool = False
    """It is one message, and the consumer holds nothing else."""
    drain_ms: int = 0
    """For so long this consumer is asked to claim nothing: a message waits that goes alone."""


class Claims:
    """The claims of one consumer on some queues. What is the same in all of them is made once.

    In a cluster all queues must live in one slot.
    """

    __slots__ = ("_keys", "_more", "_settings", "names", "queues")

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        *,
        lease_ms: int,
        renew_ms: int | None = None,
        max_deliveries: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        check_items("queues", queues)
        self.queues = queues
        self.names = [queue.name for queue in queues]
        self._more = (queues[0].name,)
        self._keys: Sequence[str] = queues[0].claim
        if len(queues) > 1:
            once = queues[0].nowhere
            each = [key for queue in queues for key in queue.claim if key not in queue.nowhere]
            self._keys = [*each, *once]
        self._settings = (
            arguments.whole("lease_ms", lease_ms, 1, 31_622_400_000),
            renew_ms or renewal_ms(lease_ms),
            max_deliveries or NO_CAP,
            max_bytes,
            len(queues[0].steps),
        )

    def call(
        self,
        claim_id: str,
        limit: int,
        company: int = SOLE,
        acks: Sequence[Sequence[str]] | None = None,
    ) -> Call[Claimed]:
        """Lease up to `limit` messages. `claim_id` is `<consumer>-<counter>`, and used once.

        `acks` holds, for each queue, what to ack in the same move: see `Delivery.word`. `limit` 0
        takes nothing and wakes another consumer if there is work.

        `company` says what the consumer holds, but for the acks that go with the claim: SOLE,
        nothing, and so it may be given a message that goes alone; HOLDS, something; or for how many
        ms at least it would claim nothing, if it is asked to (`Claimed.drain_ms`), to come to hold
        nothing.
        """
        keep = self.queues[0].keep
        if type(limit) is not int or not 0 <= limit <= MOST:  # it raises; nearly never
            arguments.whole("limit", limit, 0, MOST)
        args: list[Any] = [claim_id, 0, limit, *self._settings, company, keep]
        sent: list[Sequence[str]] = []
        for receipts in acks or [()] * len(self.queues):
            if len(receipts) > 1:
                receipts = tracked_last(receipts)  # noqa: PLW2901 - what is sent
                check_items("acks", receipts)
            sent.append(receipts)
            args.append(len(receipts))
            args += receipts
        parse = partial(self._claimed, claim_id, company == SOLE, sent)
        call = Call(_CLAIM, self.queues[0], self._keys, args, parse, _ATTEMPT_AT)
        call.large = limit > FEW
        return call

    def _claimed(
        self,
        claim_id: str,
        is_sole: bool,
        acks: Sequence[Sequence[str]],
        reply: Any,
        repeated: bool,
    ) -> Claimed:
        names = self.names
        if type(reply) is bytes:
            head, raw = reply.split(b"\n", 1) if b"\n" in reply else (reply, None)
            now, _, said = head.partition(b" ")
            one = _of_one(said)
            if one is not None and raw is not None:  # as nearly always
                has_more, place, times, step = one
                delivery = Delivery(names[0], f"{claim_id}.{place}", times, step, raw)
                more = self._more if has_more else ()
                found: Claimed = _new(
                    Claimed, (int(now), None, more, (), [delivery], (), is_sole, 0)
                )
                return found
            reply = [head] if raw is None else [head, raw]
        now, _, said = reply[0].partition(b" ")
        wait, drain, mores, *rest = _numbers(said)
        dead_lettered: Sequence[DeadLettered] = ()
        if type(reply[-1]) is list:
            dead_lettered = _dead_lettered(names, reply.pop())
        attempt, runs = rest[mores : mores + 2]
        deliveries: list[Delivery] = []
        front, at, end = f"{claim_id}.{attempt}.", 1, mores + 2
        for run in range(end, end + 4 * runs, 4):
            end = run + 4
            queue, times, step, many = rest[run:end]
            name = names[queue - 1]
            if attempt >= 0:
                deliveries += [
                    Delivery(name, f"{front}{i}", times, step, reply[i])
                    for i in range(at, at + many)
                ]
                at += many
            else:
                deliveries += [
                    Delivery(name, reply[i].decode(), times, step, reply[i + 1])
                    for i in range(at, at + 2 * many, 2)
                ]
                at += 2 * many
        # After a lost reply the first try may have carried out the acks: that they find nothing
        # then says nothing.
        lost_acks: tuple[tuple[str, str], ...] = ()
        if len(rest) > end and not repeated:
            lost = zip(rest[end::2], rest[end + 1 :: 2], strict=True)
            lost_acks = tuple([(names[q - 1], acks[q - 1][i - 1]) for q, i in lost])
        claimed: Claimed = _new(
            Claimed,
            (
                int(now),
                wait if wait >= 0 else None,
                tuple([names[i - 1] for i in rest[:mores]]) if mores else (),
                lost_acks,
                deliveries,
                dead_lettered,
                is_sole and len(deliveries) == 1,
                drain,
            ),
        )
        return claimed


@lru_cache(maxsize=256)
def _of_one(said: bytes) -> tuple[bool, str, int, int] | None:
    """If a claim says only that it got one message of the first queue, and whether there is more.

    The end of its receipt, its deliveries and its step; None: it says something else.
    """
    wait, drain, mores, *rest = _numbers(said)
    attempt, runs, *run = rest[mores:]
    if (wait, drain, runs, len(run)) != (-1, 0, 1, 4) or rest[:mores] not in ([], [1]):
        return None
    queue, times, step, many = run
    return (mores > 0, f"{attempt}.1", times, step) if attempt >= 0 and queue == many == 1 else None


@lru_cache(maxsize=256)
def _numbers(said: bytes) -> tuple[int, ...]:
    """What a claim says beside the time: of most claims it is the same."""
    return tuple(map(int, said.split()))


def claim(
    queues: Sequence[QueueKeys],
    claim_id: str,
    *,
    limit: int,
    lease_ms: int,
    renew_ms: int | None = None,
    max_deliveries: int | None = None,
    max_bytes: int = MAX_BYTES,
    company: int = SOLE,
    acks: Sequence[Sequence[str]] | None = None,
) -> Call[Claimed]:
    """One claim, see `Claims`."""
    claims = Claims(
        queues,
        lease_ms=lease_ms,
        renew_ms=renew_ms,
        max_deliveries=max_deliveries,
        max_bytes=max_bytes,
    )
    return claims.call(claim_id, limit, company=company, acks=acks)


_LOOK = scripts.declared(
    "look",
    keys=(*(f"{name} * queue" for name in LOOKED), "ready * queue * step"),
    argv=("consumer", "renew_ms", "steps", "sharded"),
)


def look(queues: Sequence[QueueKeys], consumer: str, *, renew_ms: int) -> Call[tuple[str, ...]]:
    """Those of these queues in which a claim would find something to do.

    Of the others the consumers that listen on `QueueKeys.looked` hear that this one looked,
    unless its name is "". In a cluster all queues must live in one slot.
    """
    check_items("queues", queues)
    names = [queue.name for queue in queues]
    keys = [key for queue in queues for key in queue.look]

    def parse(reply: Any, _: bool) -> tuple[str, ...]:
        return tuple([names[int(index) - 1] for index in reply.split()])

    first = queues[0]
    return Call(_LOOK, first, keys, [consumer, renew_ms, len(first.steps), first.sharded], parse)


def _dead_lettered(queues: Sequence[str], flat: Sequence[Any]) -> list[DeadLettered]:
    return [
        DeadLettered(queues[flat[i] - 1], as_text(flat[i + 1]), as_text(flat[i + 2]), flat[i + 3])
        for i in range(0, len(flat), 4)
    ]
