"""Putting messages into a queue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from atomq import scripts
from atomq.arguments import LARGEST
from atomq.calls.base import MOST, Call, check_size
from atomq.calls.registering import IN_USE
from atomq.durability import Durability
from atomq.errors import InvalidArgument
from atomq.ids import CallId
from atomq.keys import QueueKeys
from atomq.options import CALL_WINDOW_MS

_PUBLISH = scripts.declared(
    "publish",
    keys=(
        "producer",
        "wake",
        "meta",
        "stats",
        "ready * step",
        "delayed * named",
        "delayed_records * named",
        "ids * once",
        "calls * once",
        "calls_old * once",
        "result * message",
        "put * message",
        "cancelled * known",
    ),
    argv=(
        "call",
        "keep_ms",
        "settings * group",
        "id * group * message",
        "message * group * message",
    ),
)


class Outgoing(NamedTuple):
    """One message to publish. What stands behind its id are its settings."""

    message: str | bytes
    id: str
    step: int = 1
    """1-based priority step."""
    delay_ms: int = 0
    at_ms: int = 0
    """When it falls due by the server's clock; 0: `delay_ms` from now."""
    ttl_ms: int = 0
    """0: never expires."""
    alive_ms: int = 0
    """Delay it only if a consumer was seen in so many ms, else it is ready at once; 0: always."""
    dedup: bool = False
    """Not put again while its id is remembered."""
    tracked: bool = False
    """The scripts write down where it is; so its envelope says: see `message.tracked`."""

    @property
    def is_plain(self) -> bool:
        """Whether it is ready at once in the first step, whatever its id."""
        return self[2:] == _PLAIN


_REPEATED, _EXPIRES = 1, 2  # as the script has it
_PLAIN = Outgoing("", "")[2:]
_new = tuple.__new__  # what a NamedTuple does beyond it takes as long as the packing of a call


def plain(message: str | bytes, id: str) -> Outgoing:  # noqa: A002 - as in `Outgoing`
    """A message without settings."""
    return _new(Outgoing, (message, id, *_PLAIN))


_PLAIN_TRACKED = Outgoing("", "", tracked=True)[2:]


class Published(NamedTuple):
    """What `publish` did."""

    count: int  # type: ignore[assignment] # hides tuple.count, which is not needed here
    """Messages put; those whose id was known are not among them."""
    known: tuple[int, ...] = ()
    """Positions (from 0) of the messages that were not put because their id was known."""
    repeated: bool = False
    """An earlier, equal call had done it already; this is what it did."""


_ONE = Published(1)


def publish(
    keys: QueueKeys,
    messages: Sequence[Outgoing],
    call_id: CallId | None = None,
    window_ms: int = CALL_WINDOW_MS,
    dedup_window_ms: int = 600_000,
    durability: Durability | None = None,
) -> Call[Published]:
    """Put 1 to 1,000 messages into a queue: all of them or, when the server is full, none.

    The call's id is known for `window_ms` at least; the ids of messages that say `dedup` for
    `dedup_window_ms`, and what was the result of an older one is forgotten. `durability` needs a
    `call_id`: a call without one may write nothing, and would be confirmed at once.
    """
    if durability is not None and call_id is None:
        raise InvalidArgument("durability needs a call_id")
    names: Sequence[str]
    if call_id is None:
        number, names = 0, _plain_names(keys, "")
    else:
        number = call_id.number
        if call_id.queue is not keys:
            call_id.queue, call_id.names = keys, _plain_names(keys, call_id.producer)
        names = call_id.names
    # Given up after half of the window at the latest, it may be said again for a whole one.
    args: Sequence[Any]
    keep_ms = 2 * window_ms
    if len(messages) == 1 and messages[0][2:] == _PLAIN:  # as nearly always
        message = messages[0].message
        if len(message) > LARGEST:
            check_size("message 0", message)
        args = (number, keep_ms, keys.part, message)
    else:
        groups, steps, more = _in_groups(keys, messages, dedup_window_ms)
        args = (number, keep_ms, *groups)
        if steps > 1 or more:
            names = [names[0], *keys.publish[: 3 + steps], *more]
    call = Call(_PUBLISH, keys, names, args, partial(_published, call_id, keys))
    call.noted, call.durability = IN_USE, durability
    return call


def _plain_names(keys: QueueKeys, producer: str) -> tuple[str, ...]:
    """The keys of a publish into the first step of what has no id."""
    return (keys.producer_prefix + producer, *keys.publish[:4])


def _in_groups(
    keys: QueueKeys, messages: Sequence[Outgoing], dedup_window_ms: int
) -> tuple[list[Any], int, list[str]]:
    """The arguments: before those that have settings in common, these.

    And what keys they need: those of so many steps, and which beside.
    """
    args: list[Any] = []
    results: list[str] = []
    total, group, settings_at, group_at, named = 0, None, 0, 0, False
    steps, some_named, some_tracked, some_known = 1, False, False, False
    for out in messages:
        if out[2:] != group:
            if group is not None:
                args[settings_at] = _settings(group, total - group_at, dedup_window_ms)
            group, group_at, some_tracked = out[2:], total, some_tracked or out.tracked
            named = out.delay_ms > 0 or out.at_ms > 0 or out.dedup
            steps, some_named = max(steps, out.step), some_named or named
            some_known = some_known or (named and out.tracked)
            settings_at = len(args)
            args.append("")
        total += 1
        if named:
            args.append(out.id)
            if out.dedup:
                results.append(keys.result(out.id))
        message = out.message
        if len(message) > LARGEST:
            check_size(f"message {total - 1}", message)
        args.append(message)
    if not 1 <= total <= MOST:
        raise InvalidArgument(f"messages: from 1 to {MOST} in one call, got {total}")
    if group != _PLAIN:
        args[settings_at] = (
            "t" if group == _PLAIN_TRACKED else _settings(group, total - group_at, dedup_window_ms)
        )
    args[0] = keys.part + args[0]
    more = [*keys.later] if some_named else []
    if results:
        more += [*keys.once, *results]
    if some_tracked:
        more += [keys.put(out.id) for out in messages if out.tracked]
    if some_known:
        more.append(keys.cancelled)
    return args, steps, more


def _settings(group: Any, count: int, id_ms: int) -> str:
    step, delay_ms, at_ms, ttl_ms, alive_ms, dedup, tracked = group
    named = 2 if dedup else int(delay_ms > 0 or at_ms > 0)
    return f"{count} {step} {delay_ms} {at_ms} {ttl_ms} {alive_ms} {named} {id_ms} {tracked:d}"


def _published(call_id: CallId | None, keys: QueueKeys, reply: Any, _repeated: bool) -> Published:
    if call_id is not None:
        call_id.answered()
    if type(reply) is int:
        return _ONE if reply == 1 else Published(reply)
    count, how, *known = map(int, reply.split())
    if how == _EXPIRES:
        keys.noted = float("inf")  # it passes by itself: the register does without its name
    return Published(count, tuple([at - 1 for at in known]), how == _REPEATED)
