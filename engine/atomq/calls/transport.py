"""What only the Kombu transport needs: replies, queues that expire, and life beside stock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from atomq import arguments, scripts
from atomq.calls.base import MAX_BYTES, MOST, Call, as_text, check_items, check_size, read_nothing
from atomq.keys import ExchangeKeys, QueueKeys

_REPLY = scripts.declared("reply", keys=("ready * step",), argv=("attempt", "ttl_ms", "message"))


def reply(keys: QueueKeys, message: str | bytes, *, ttl_ms: int) -> Call[bool]:
    """Put a reply of remote control into the list that its client waits on; the list expires.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    check_size("reply", message)
    args = [0, arguments.whole("ttl_ms", ttl_ms, 1, 31_622_400_000), message]
    return Call(_REPLY, keys, keys.ready[:1], args, lambda answer, _: bool(answer), attempt_at=0)


_PUT_BACK = scripts.declared(
    "put_back", keys=("stats", "ready * step"), argv=("attempt", "message")
)


def put_back(keys: QueueKeys, message: bytes, *, step: int = 1) -> Call[bool]:
    """Return a message that was popped off a ready list, without a lease, to where it was.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    ready = keys.ready[arguments.whole("step", step, 1, len(keys.ready)) - 1]
    names = (keys.stats, ready)
    return Call(_PUT_BACK, keys, names, [0, message], lambda reply, _: bool(reply), attempt_at=0)


_TOUCH = scripts.declared(
    "touch", keys=("wake", "meta", "stats", "ready * step"), argv=("expires_ms",)
)

LONGEST_LIFE = 3_162_240_000_000  # ms of a queue that expires: 100 years


def touch(keys: QueueKeys, expires_ms: int) -> Call[int]:
    """Let a queue that expires live on for so long; how many of its keys are there."""
    expires_ms = arguments.whole("expires_ms", expires_ms, 1, LONGEST_LIFE)
    return Call(_TOUCH, keys, keys.touch, [expires_ms], lambda reply, _: reply)


_BINDINGS = scripts.declared("bindings", keys=("bindings",), argv=("added", "lives_ms", "removed"))


def bindings(
    keys: ExchangeKeys, *, added: str = "", lives_ms: int | None = None, removed: str = ""
) -> Call[list[str]]:
    """What an exchange leads to, on a cluster, once a binding was added, or taken out.

    `lives_ms` is how long one that was added counts; None: for good. As often as it is added again,
    it lives from then on, and one that is there for good stays so.
    """
    lives_ms = 0 if lives_ms is None else arguments.whole("lives_ms", lives_ms, 1, 2 * LONGEST_LIFE)

    def parse(reply: Any, _repeated: bool) -> list[str]:
        return [as_text(binding) for binding in reply]

    return Call(_BINDINGS, keys, (keys.bindings,), [added, lives_ms, removed], parse)


_HAND_BACK = scripts.declared(
    "hand_back",
    keys=(
        "unacked",
        "records",
        "delayed",
        "delayed_records",
        "stats",
        "track0",
        "track1",
        "ready * step",
    ),
    argv=("limit", "max_bytes", "unacked", "delayed"),
)


class HandedBack(NamedTuple):
    """What one call of `hand_back` did."""

    delayed: int
    unacked: int
    left: int


def hand_back(
    keys: QueueKeys,
    *,
    unacked: bool = True,
    delayed: bool = True,
    limit: int = 100,
    max_bytes: int = MAX_BYTES,
) -> Call[HandedBack]:
    """Delayed and leased messages into the lists that stock workers read."""
    args = [arguments.whole("limit", limit, 1, MOST), max_bytes, int(unacked), int(delayed)]
    return Call(_HAND_BACK, keys, keys.hand_back, args, lambda reply, _: HandedBack(*reply))


_ATTEND = scripts.declared(
    "attend",
    keys=(
        "delayed",
        "delayed_records",
        "wake",
        "meta",
        "stats",
        "track0",
        "track1",
        "ready * step",
    ),
    argv=("consumer", "alive_ms", "skip", "limit", "max_bytes"),
)


class Attended(NamedTuple):
    """What one call of `attend` found and did."""

    consumers: int
    """How many are there."""
    ready: int
    """Delayed messages that were put into ready."""
    kept: int
    """Those that were looked at and stay delayed."""
    left: int
    """Those to be looked at yet."""
    partitions: str = ""
    """The record of the queue's partitions, if it has any and a consumer is there."""


def attend(
    keys: QueueKeys,
    consumer: str,
    *,
    alive_ms: int = 0,
    skip: int = 0,
    limit: int = 500,
    max_bytes: int = MAX_BYTES,
) -> Call[Attended]:
    """A consumer is there for `alive_ms`, or leaves (0): the last one puts into ready what waits.

    `consumer` is its name, without blanks; `skip` is how many were kept by the calls before.
    """
    args = [consumer, alive_ms, skip, arguments.whole("limit", limit, 1, MOST), max_bytes]

    def parse(reply: Any, _repeated: bool) -> Attended:
        return Attended(*reply[:4], *map(as_text, reply[4:]))

    return Call(_ATTEND, keys, keys.attend, args, parse)


_RESIGN = scripts.declared("resign", keys=("watch", "wake"), argv=("ttl_ms",))


def resign(keys: QueueKeys, *, ttl_ms: int) -> Call[None]:
    """Leave the watch for messages of stock producers to another consumer, and wake one."""
    args = [arguments.whole("ttl_ms", ttl_ms, 1, 31_622_400_000)]
    return Call(_RESIGN, keys, (keys.watch, keys.wake), args, read_nothing)


_RESTORE_FOREIGN = scripts.declared(
    "restore_foreign",
    keys=(
        "stock_unacked",
        "stock_index",
        "dead",
        "stats",
        *(f"{x} * item" for x in ("ready", "wake", "meta")),
    ),
    argv=("visibility_s", "limit", "max_bytes", "keep", "tag * item"),
)


class Foreign(NamedTuple):
    """One message that a stock worker holds for longer than the visibility timeout."""

    tag: str
    exchange: str
    """As JSON."""
    routing_key: str
    """As JSON."""
    priority: int


def restore_foreign(
    keys: QueueKeys,
    stock: tuple[str, str],
    *,
    visibility_s: int,
    limit: int = 100,
    targets: Sequence[tuple[str, QueueKeys, int]] = (),
    max_bytes: int = MAX_BYTES,
) -> Call[tuple[int, list[Foreign]]]:
    """Take over from dead stock workers: (tag, queue, priority) to restore, and what else is there.

    `stock` names stock's hash and index. What cannot be parsed goes to the dead letters of `keys`.
    Stops once `max_bytes` were read: what is left is there the next time.
    """
    check_items("targets", targets, least=0)
    names: list[str] = [*stock, keys.dead, keys.stats]
    for _, target, priority in targets:
        names += (target.ready[target.step_of(priority) - 1], target.wake, target.meta)

    def parse(reply: Any, _repeated: bool) -> tuple[int, list[Foreign]]:
        flat = reply[1]
        found = [
            Foreign(as_text(flat[i]), as_text(flat[i + 1]), as_text(flat[i + 2]), int(flat[i + 3]))
            for i in range(0, len(flat), 4)
        ]
        return reply[0], found

    visibility_s = arguments.whole("visibility_s", visibility_s, 1, 10**9)
    args: list[Any] = [visibility_s, limit, max_bytes, keys.keep]
    args += (tag for tag, _, _ in targets)
    return Call(_RESTORE_FOREIGN, keys, names, args, parse)
