"""What a consumer does with the messages it holds: ack, complete, release, extend, reject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from atomq import arguments, scripts
from atomq.calls.base import (
    MAX_BYTES,
    Call,
    Verdict,
    check_items,
    check_reason,
    is_tracked,
    read_missing,
    read_missing_of,
    read_verdicts,
    renewal_ms,
    tracked_last,
)
from atomq.keys import QueueKeys

_TRACKED = ("track0", "track1")

_ACK = scripts.declared(
    "ack",
    keys=("unacked", "records", "stats", *(f"{name} * tracked" for name in _TRACKED)),
    argv=("receipt * item",),
)


def ack(keys: QueueKeys, receipts: Sequence[str]) -> Call[list[Verdict]]:
    """These messages are done with, each by its `Delivery.word`; one verdict each."""
    n = check_items("receipts", receipts)
    sent = tracked_last(receipts)
    if sent is receipts:
        return Call(_ACK, keys, keys.ack, receipts, partial(read_missing, n))
    return Call(_ACK, keys, (*keys.ack, *keys.tracked), sent, read_missing_of(receipts))


_RELEASE = scripts.declared(
    "release",
    keys=(
        "unacked",
        "records",
        "delayed",
        "delayed_records",
        "wake",
        "meta",
        "stats",
        *_TRACKED,
        "cancelled",
        "ready * step",
    ),
    argv=("delay_ms", "front", "counted", "max_bytes", "receipt * item", "id * item"),
)


def release(
    keys: QueueKeys,
    items: Sequence[tuple[str, str]],
    *,
    delay_ms: int = 0,
    front: bool = False,
    counted: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Call[list[Verdict]]:
    """Give messages back: items of (receipt, message id); one verdict each, AGAIN among them.

    `counted` is for a delivery that may have started; one that surely did not must not count.
    """
    check_items("receipts", items)
    args = [arguments.whole("delay_ms", delay_ms, 0, 1 << 42), arguments.flag("front", front)]
    args += (arguments.flag("counted", counted), max_bytes)
    return Call(
        _RELEASE, keys, keys.release, [*args, *(x for item in items for x in item)], read_verdicts
    )


LONGEST_LEASE = 31_622_400  # seconds: a year and a day

_EXTEND = scripts.declared(
    "extend",
    keys=("unacked", "records", "meta", "cancelled"),
    argv=("lease_ms", "renew_ms", "beside", "receipt * item"),
)


def extend(
    keys: QueueKeys,
    receipts: Sequence[str],
    *,
    lease_ms: int,
    renew_ms: int | None = None,
    beside: bool = False,
) -> Call[list[Verdict]]:
    """Hold these messages for `lease_ms` from now; one verdict each, CANCELLED among them.

    `beside` says that their consumer holds more than these, so that they are not alone any more.
    """
    n = check_items("receipts", receipts)
    args = [
        arguments.whole("lease_ms", lease_ms, 0, LONGEST_LEASE * 1000),
        renew_ms or renewal_ms(lease_ms),
        int(beside),
    ]

    def parse(reply: Any, repeated: bool) -> list[Verdict]:
        verdicts = [Verdict.DONE] * n
        for position in reply:
            if position < 0:
                verdicts[-position - 1] = Verdict.CANCELLED
            else:
                verdicts[position - 1] = Verdict.UNKNOWN if repeated else Verdict.LOST
        return verdicts

    return Call(_EXTEND, keys, keys.extend, [*args, *receipts], parse)


_REJECT = scripts.declared(
    "reject",
    keys=("unacked", "records", "dead", "stats", *_TRACKED, "result * item"),
    argv=(
        "ttl_ms",
        "sharded",
        "max_bytes",
        "keep",
        *(f"{x} * item" for x in ("receipt", "reason", "detail", "value")),
    ),
)


class Rejection(NamedTuple):
    """One message to move to dead letters."""

    receipt: str
    id: str
    reason: str
    """One word, at most 64 characters."""
    detail: str = ""
    value: str = ""
    """The result that its waiters get, as JSON; "": none."""


def reject(
    keys: QueueKeys,
    items: Sequence[Rejection],
    *,
    ttl_ms: int = 86_400_000,
    max_bytes: int = MAX_BYTES,
) -> Call[list[Verdict]]:
    """Move messages to dead letters, with the reason; one verdict each, AGAIN among them."""
    check_items("receipts", items)
    names = [*keys.reject]
    args: list[Any] = [ttl_ms, keys.sharded, max_bytes, keys.keep]
    for receipt, message_id, reason, detail, value in items:
        check_reason(reason)
        names.append(keys.result(message_id))
        args += (receipt, reason, arguments.readable(detail, 4096), value)
    return Call(_REJECT, keys, names, args, read_verdicts)


_DEAD_LETTER = scripts.declared(
    "dead_letter",
    keys=("dead", "stats"),
    argv=("call_id", "attempt", "reason", "detail", "step", "keep", "message"),
)


def dead_letter(
    keys: QueueKeys, message: bytes, *, call_id: str, reason: str, detail: str = "", step: int = 1
) -> Call[bool]:
    """Dead-letter a message that was popped off a ready list, without a lease.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    check_reason(reason)
    detail = arguments.readable(detail, 4096)
    step = arguments.whole("step", step, 1, 10)
    args = [call_id, 0, reason, detail, step, keys.keep, message]
    return Call(
        _DEAD_LETTER, keys, keys.dead_letter, args, lambda reply, _: bool(reply), attempt_at=1
    )


_COMPLETE = scripts.declared(
    "complete",
    keys=("unacked", "records", "stats", *_TRACKED, "result * item"),
    argv=("ttl_ms", "sharded", "receipt * item", "value * item"),
)


def complete(
    keys: QueueKeys, items: Sequence[tuple[str, str, str]], *, ttl_ms: int = 86_400_000
) -> Call[list[Verdict]]:
    """Ack and store results; one verdict each.

    Items of `Delivery.word`, message id, and result as JSON.
    """
    check_items("receipts", items)
    parse: Callable[[Any, bool], list[Verdict]] = partial(read_missing, len(items))
    words = [word for word, _, _ in items]
    if tracked_last(words) is not words:
        parse = read_missing_of(words)
        items = sorted(items, key=lambda item: is_tracked(item[0]))
    names = [*keys.complete]
    args: list[Any] = [ttl_ms, keys.sharded]
    for word, message_id, value in items:
        names.append(keys.result(message_id))
        args += (word, value)
    return Call(_COMPLETE, keys, names, args, parse)
