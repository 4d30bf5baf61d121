"""What an operator does to a queue: cancel, redrive, purge, pause."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from atomq import arguments, scripts
from atomq.calls.base import (
    MAX_BYTES,
    MOST,
    QUEUE,
    Call,
    Verdict,
    as_text,
    check_names,
    id_of,
    read_missing,
)
from atomq.calls.registering import GONE
from atomq.errors import InvalidArgument
from atomq.keys import QueueKeys

_TRACKED = ("track0", "track1")

_CANCEL = scripts.declared(
    "cancel",
    keys=("delayed", "delayed_records", "ids", "meta", "stats", *_TRACKED, "result * item"),
    argv=("id * item",),
)


def cancel(keys: QueueKeys, ids: Sequence[str]) -> Call[list[Verdict]]:
    """Delayed messages, by id, are gone for good, and their ids forgotten; one verdict each."""
    results = map(keys.result, check_names("ids", ids))
    return Call(_CANCEL, keys, [*keys.cancel, *results], ids, partial(read_missing, len(ids)))


_REDRIVE = scripts.declared(
    "redrive",
    keys=("dead", "wake", "meta", "stats", *_TRACKED, "ready * step", "result * item"),
    argv=("look", "limit", "max_bytes", "after", "until", "reason", "id * item"),
)


class Redriven(NamedTuple):
    """What one call of `redrive` did."""

    count: int  # type: ignore[assignment] # as in Published
    """Dead letters that went back to ready."""
    seen: int
    """Dead letters looked at; less than asked for: there are no more, or `max_bytes` were moved."""
    last: str
    """The id of the last one looked at: the next call's `after`."""
    found: Sequence[tuple[str, str]] = ()
    """If it only looked: dead letters to redrive, and the ids of the messages in them ("" where
    they cannot be read)."""


def redrive(
    keys: QueueKeys,
    ids: Sequence[str] = (),
    *,
    limit: int = 100,
    after: str = "",
    until: str = "",
    reason: str = "",
    max_bytes: int = MAX_BYTES,
    look: bool = False,
    messages: Sequence[str] = (),
) -> Call[Redriven]:
    """Dead letters back to ready: these ids, or the oldest of those that match.

    With `look` nothing is moved, and the answer says what would be. `messages` are the ids of the
    messages in `ids`: their old results are forgotten.
    """
    check_names("ids", ids, least=0)
    check_names("messages", messages, least=0)
    check_names("after, until and reason", (after, until, reason))
    results = [keys.result(name) for name in messages or [""] * len(ids)]
    if len(results) != len(ids):
        raise InvalidArgument(f"{len(messages)} messages of {len(ids)} dead letters")
    args = [
        int(look),
        arguments.whole("limit", limit, 1, MOST),
        max_bytes,
        after,
        until,
        reason,
        *ids,
    ]

    def parse(reply: Any, _repeated: bool) -> Redriven:
        flat = reply[3]
        found = [(as_text(flat[i]), id_of(flat[i + 1])) for i in range(0, len(flat), 2)]
        return Redriven(reply[0], reply[1], as_text(reply[2]), found)

    return Call(_REDRIVE, keys, (*keys.redrive, *results), args, parse, large=True)


_PURGE = scripts.declared(
    "purge",
    keys=(*QUEUE, "calls", "calls_old", "ids", *_TRACKED, "cancelled", "ready * step"),
    argv=(
        "ready",
        "delayed",
        "unacked",
        "dead",
        "settings",
        "if_unused",
        "if_empty",
        "if_idle",
        "id * item",
    ),
)


class Counts(NamedTuple):
    """Messages by the part of the queue they lie in."""

    ready: int = 0
    delayed: int = 0
    unacked: int = 0
    dead: int = 0


def purge(
    keys: QueueKeys,
    *,
    ready: bool = False,
    delayed: bool = False,
    unacked: bool = False,
    dead: bool = False,
    settings: bool = False,
    if_unused: bool = False,
    if_empty: bool = False,
    if_idle: bool = False,
    dead_ids: Sequence[str] = (),
) -> Call[Counts]:
    """Throw away what lies in the parts named, or single dead letters; how many that were.

    With `if_unused` its run raises `QueueInUse`, and nothing is changed, if messages are unacked;
    with `if_empty`, if messages are ready or delayed; with `if_idle`, if it holds any at all, has
    partitions, or a consumer of the Kombu transport said in the last minute that it is there.
    """
    check_names("dead_ids", dead_ids, least=0)
    parts = (ready, delayed, unacked, dead, settings, if_unused, if_empty, if_idle)
    flags = [arguments.flag("a part of purge", part) for part in parts]
    args = [*flags, *dead_ids]
    gone = GONE if settings and ready and delayed and unacked and dead else 0
    return Call(_PURGE, keys, keys.purge, args, lambda reply, _: Counts(*reply), noted=gone)


_PAUSE = scripts.declared("pause", keys=("wake", "meta"), argv=("paused",))


def pause(keys: QueueKeys, *, paused: bool = True) -> Call[bool]:
    """Stop (or resume) handing out messages; whether the queue was paused before."""
    return Call(_PAUSE, keys, keys.pause, [int(paused)], lambda reply, _: bool(reply))
