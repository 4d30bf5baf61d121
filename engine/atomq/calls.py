"""Verbs: pure functions from arguments to one script call.

A `Call` says which script, keys and arguments to send and how to read the answer. Nothing here
talks to a server; `Engine.run` and `AsyncEngine.run` do. Every call may be sent again after a lost
reply: `again()` is what to send then.

All verbs raise `InvalidArgument` for what is out of range, before anything is sent. Times are
milliseconds here, as the scripts have them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from atomq import arguments, fork, scripts
from atomq.arguments import LARGEST
from atomq.conversation import packed
from atomq.durability import Durability
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.keys import Place, QueueKeys, RegisterKeys
from atomq.message import JSON, CallId, Delivery, Envelope, Serializer
from atomq.options import CALL_WINDOW_MS
from atomq.scripts import Script

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST = 1000  # messages, receipts or ids in one call
MAX_BYTES = 1 << 20  # what one call moves before it stops: 1 MiB
NO_CAP = 0  # of max_deliveries
FEW = 10  # messages: the answer to a claim of more is large
LONGEST_NAME = 1 << 20  # characters of an id that others gave
SOLE, HOLDS = 0, 1  # of company
IN_USE, GONE = 1, -1  # of what is noted in the register


class Call(Generic[T_co]):
    """One script call: what to send, and how to read the answer.

    `keys` are a tuple where other calls have the same ones: these are packed once. `repeated` tells
    that an earlier, equal call may have been carried out without an answer, and `large` that its
    answer may be large: small calls do not wait behind it. `durability` is what has to be confirmed
    before it is answered; such a call writes, also when it is repeated. With a `place`, that node
    of a cluster is to be asked, this once, as the owner of the slot said by ASK. `noted` is
    what the register is to know of the queue afterwards: that it is IN_USE, or GONE.
    """

    __slots__ = (
        "_attempt_at",
        "args",
        "durability",
        "keys",
        "large",
        "noted",
        "parse",
        "place",
        "queue",
        "repeated",
        "script",
    )

    def __init__(
        self,
        script: Script,
        queue: QueueKeys | RegisterKeys,
        keys: Sequence[str],
        args: Sequence[Any],
        parse: Callable[[Any, bool], T_co],
        *,
        attempt_at: int | None = None,
        repeated: bool = False,
        large: bool = False,
        durability: Durability | None = None,
        place: Place | None = None,
        noted: int = 0,
    ) -> None:
        self.script = script
        self.queue = queue
        self.keys = keys
        self.args = args
        self.parse = parse
        self.repeated = repeated
        self.large = large
        self.durability = durability
        self.place = place
        self.noted = noted
        self._attempt_at = attempt_at

    def command(self) -> tuple[Any, ...]:
        """The command to send."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def packed(self) -> bytes:
        """The same as it is sent. Raises redis-py's `DataError` for a word of another type."""
        if type(self.keys) is not tuple:
            return packed(self.command())
        words = packed(self.args)
        count = 3 + len(self.keys) + len(self.args)
        return b"*%d\r\n%b%b" % (
            count,
            _packed_head(self.script.sha, self.keys),
            words[words.index(b"\n") + 1 :],
        )

    def again(self) -> Call[T_co]:
        """The call to send after this one got no answer: harmless if this one was carried out."""
        args = self.args
        if self._attempt_at is not None:
            args = list(args)
            args[self._attempt_at] = min(args[self._attempt_at] + 1, 9)
        return Call(
            self.script,
            self.queue,
            self.keys,
            args,
            self.parse,
            attempt_at=self._attempt_at,
            repeated=True,
            large=self.large,
            durability=self.durability,
            noted=self.noted,
        )

    def at(self, place: Place | None) -> Call[T_co]:
        """The same call, to be sent to that node; None: to the one that the slot map names."""
        return Call(
            self.script,
            self.queue,
            self.keys,
            self.args,
            self.parse,
            attempt_at=self._attempt_at,
            repeated=self.repeated,
            large=self.large,
            durability=self.durability,
            noted=self.noted,
            place=place,
        )

    def __repr__(self) -> str:
        return f"Call({self.script.name} {self.queue.name!r}, {len(self.args)} arguments)"


@lru_cache(maxsize=1024)
def _packed_head(sha: str, keys: tuple[str, ...]) -> bytes:
    """What calls of one script have in common that have the same keys, but for the count."""
    words = packed(("EVALSHA", sha, len(keys), *keys))
    return words[words.index(b"\n") + 1 :]


class Verdict(Enum):
    """What became of one item of a batch."""

    DONE = "done"
    LOST = "lost"
    """Its receipt (or id) is not live: nothing was changed."""
    UNKNOWN = "unknown"
    """As LOST, but the call was repeated after a lost reply: the first one may have done it."""
    AGAIN = "again"
    """Not reached within the bytes of one call: call again with this item."""


def _missing(n: int) -> Callable[[Any, bool], list[Verdict]]:
    """Read a list of the 1-based positions of items that were not there."""

    def parse(reply: Any, repeated: bool) -> list[Verdict]:
        verdicts = [Verdict.DONE] * n
        for position in reply:
            verdicts[position - 1] = Verdict.UNKNOWN if repeated else Verdict.LOST
        return verdicts

    return parse


def _verdicts(reply: Any, repeated: bool) -> list[Verdict]:
    known = (Verdict.UNKNOWN if repeated else Verdict.LOST, Verdict.DONE, Verdict.AGAIN)
    return [known[verdict] for verdict in reply]


def _none(_reply: Any, _repeated: bool) -> None:
    return None


def _items(what: str, given: Sequence[Any], *, least: int = 1) -> int:
    if type(given) is list and least <= len(given) <= MOST:  # as nearly always
        return len(given)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise InvalidArgument(f"{what} must be a list, got {arguments.shown(given)}")
    if not least <= len(given) <= MOST:
        raise InvalidArgument(f"{what}: from {least} to {MOST} in one call, got {len(given)}")
    return len(given)


_whole = arguments.whole


def _names(what: str, given: Sequence[Any], *, least: int = 1) -> Sequence[str]:
    """Ids that the caller names: so many in one call, each text that can be sent."""
    _items(what, given, least=least)
    for each in given:
        arguments.text(what, each, LONGEST_NAME)
    return given


def check_size(what: str, text: str | bytes) -> None:
    """Refuse what no server takes before it is sent. Raises `InvalidMessage`."""
    if len(text) > LARGEST:
        raise InvalidMessage(f"{what} has {len(text):,} bytes; a server takes at most {LARGEST:,}")


def check_reason(reason: str) -> None:
    """Why a message was rejected: a line of 1 to 64 characters. Raises `InvalidArgument`."""
    if not (isinstance(reason, str) and 0 < len(reason) <= 64 and "\n" not in reason):
        shown = arguments.shown(reason)
        raise InvalidArgument(f"reason must be one line of 1 to 64 characters: {shown}")
    arguments.text("reason", reason, 64)


def check_limit(limit: int) -> None:
    """How many messages may be asked for in one claim: 1 to 1,000. Raises `InvalidArgument`."""
    _whole("limit", limit, 1, MOST)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {_text(name): _text(value) for name, value in flat.items()}
    return {_text(flat[i]): _text(flat[i + 1]) for i in range(0, len(flat), 2)}


_QUEUE = ("unacked", "records", "delayed", "delayed_records", "dead", "wake", "meta", "stats")
_LOOKED = ("unacked", "delayed", "meta", "looked")

# ── publish ───────────────────────────────────────────────────────────────────────────────────

_PUBLISH = scripts.declared(
    "publish",
    keys=(
        "producer",
        "delayed",
        "delayed_records",
        "wake",
        "meta",
        "stats",
        "ready * step",
        "ids * once",
        "calls * once",
        "calls_old * once",
        "result * message",
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


_PLAIN = Outgoing("", "")[2:]  # ready at once in the first step, whatever its id


class Published(NamedTuple):
    """What `publish` did."""

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs here
    """Messages put; those whose id was known are not among them."""
    known: tuple[int, ...] = ()
    """Positions (from 0) of the messages that were not put because their id was known."""
    repeated: bool = False
    """An earlier, equal call had done it already; this is what it did."""


def publish(
    keys: QueueKeys,
    messages: Iterable[Outgoing],
    *,
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
    # Given up after half of the window at the latest, it may be said again for a whole one.
    args: list[Any] = [call_id.number if call_id is not None else 0, 2 * window_ms]
    results: list[str] = []
    total, group, settings_at, group_at = 0, None, 0, 0
    for out in messages:
        if out[2:] != group:
            if group is not None:
                args[settings_at] = _settings(group, total - group_at, dedup_window_ms)
            group, group_at = out[2:], total
            settings_at = len(args)
            args.append("")
        total += 1
        if out.delay_ms > 0 or out.at_ms > 0 or out.dedup:
            args.append(out.id)
        if out.dedup:
            results.append(keys.result(out.id))
        if len(out.message) > LARGEST:
            check_size(f"message {total - 1}", out.message)
        args.append(out.message)
    if not 1 <= total <= MOST:
        raise InvalidArgument(f"messages: from 1 to {MOST} in one call, got {total}")
    if group != _PLAIN:
        args[settings_at] = _settings(group, total - group_at, dedup_window_ms)
    producer = keys.producer(call_id.producer if call_id is not None else "")
    names: Sequence[str] = (producer, *keys.publish)
    if results:
        names = [*names, *keys.once, *results]
    parse = partial(_published, call_id)
    return Call(_PUBLISH, keys, names, args, parse, durability=durability, noted=IN_USE)


def _settings(group: Any, count: int, id_ms: int) -> str:
    step, delay_ms, at_ms, ttl_ms, alive_ms, dedup = group
    named = 2 if dedup else int(delay_ms > 0 or at_ms > 0)
    return f"{count} {step} {delay_ms} {at_ms} {ttl_ms} {alive_ms} {named} {id_ms}"


def _published(call_id: CallId | None, reply: Any, _repeated: bool) -> Published:
    if call_id is not None:
        call_id.answered()
    if type(reply) is int:
        return Published(reply)
    count, repeated, *known = map(int, reply.split())
    return Published(count, tuple([at - 1 for at in known]), repeated == 1)


_REPLY = scripts.declared("reply", keys=("ready * step",), argv=("attempt", "ttl_ms", "message"))


def reply(keys: QueueKeys, message: str | bytes, *, ttl_ms: int) -> Call[bool]:
    """Put a reply of remote control into the list that its client waits on; the list expires.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    check_size("reply", message)
    args = [0, _whole("ttl_ms", ttl_ms, 1, 31_622_400_000), message]
    return Call(_REPLY, keys, keys.ready[:1], args, lambda answer, _: bool(answer), attempt_at=0)


# ── claim ─────────────────────────────────────────────────────────────────────────────────────

_CLAIM = scripts.declared(
    "claim",
    keys=(*(f"{name} * queue" for name in _QUEUE), "ready * queue * step"),
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
        "acks * queue",
    ),
)


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
        return _message_id(self.raw) or (self.detail if self.reason == "corrupt" else "")


def _message_id(raw: bytes) -> str:
    try:
        return Envelope(raw).id
    except InvalidMessage:
        return ""


class Claimed(NamedTuple):
    """What `claim` got."""

    now_ms: int
    wait_ms: int | None
    """Claim again in so many ms, a delayed message falls due then; None: somebody else minds it."""
    more: tuple[str, ...]
    """Queues that have more to claim now."""
    lost_acks: tuple[tuple[str, str], ...]
    """Queue and receipt of acks that rode along and found nothing."""
    deliveries: list[Delivery]
    dead_lettered: Sequence[DeadLettered] = ()
    """For `tell`: nobody else knows that they died."""
    alone: bool = False
    """It is one message, and the consumer holds nothing else."""
    drain_ms: int = 0
    """For so long this consumer is asked to claim nothing: a message waits that goes alone."""


class Claims:
    """The claims of one consumer on some queues. What is the same in all of them is made once.

    In a cluster all queues must live in one slot.
    """

    __slots__ = ("_keys", "_settings", "names", "queues")

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        *,
        lease_ms: int,
        renew_ms: int | None = None,
        max_deliveries: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        _items("queues", queues)
        self.queues = queues
        self.names = [queue.name for queue in queues]
        self._keys: Sequence[str] = queues[0].claim
        if len(queues) > 1:
            self._keys = [key for queue in queues for key in queue.claim]
        self._settings = (
            _whole("lease_ms", lease_ms, 1, 31_622_400_000),
            renew_ms or renewal_ms(lease_ms),
            max_deliveries or NO_CAP,
            max_bytes,
            len(queues[0].steps),
        )

    def call(
        self,
        claim_id: str,
        limit: int,
        *,
        company: int = SOLE,
        acks: Sequence[Sequence[str]] | None = None,
    ) -> Call[Claimed]:
        """Lease up to `limit` messages. `claim_id` is `<consumer>-<counter>`, and used once.

        `acks` holds, for each queue, receipts to ack in the same move. `limit` 0 takes nothing and
        wakes another consumer if there is work.

        `company` says what the consumer holds, but for the acks that go with the claim: SOLE,
        nothing, and so it may be given a message that goes alone; HOLDS, something; or for how many
        ms at least it would claim nothing, if it is asked to (`Claimed.drain_ms`), to come to hold
        nothing.
        """
        args = [claim_id, 0, _whole("limit", limit, 0, MOST), *self._settings, company]
        for receipts in acks or [()] * len(self.queues):
            args.append(_items("acks", receipts, least=0))
            args += receipts
        parse = partial(self._claimed, claim_id, company == SOLE, acks or ())
        return Call(
            _CLAIM, self.queues[0], self._keys, args, parse, attempt_at=1, large=limit > FEW
        )

    def _claimed(
        self,
        claim_id: str,
        is_sole: bool,
        acks: Sequence[Sequence[str]],
        reply: Any,
        repeated: bool,
    ) -> Claimed:
        names = self.names
        now, wait, drain, mores, *rest = map(int, reply[0].split())
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
        return Claimed(
            now,
            wait if wait >= 0 else None,
            tuple([names[i - 1] for i in rest[:mores]]) if mores else (),
            lost_acks,
            deliveries,
            dead_lettered,
            is_sole and len(deliveries) == 1,
            drain,
        )


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
    keys=(*(f"{name} * queue" for name in _LOOKED), "ready * queue * step"),
    argv=("consumer", "renew_ms", "steps"),
)


def look(queues: Sequence[QueueKeys], consumer: str, *, renew_ms: int) -> Call[tuple[str, ...]]:
    """Those of these queues in which a claim would find something to do.

    Of the others the consumers that listen on `QueueKeys.looked` are told that this one looked,
    unless its name is "". In a cluster all queues must live in one slot.
    """
    _items("queues", queues)
    names = [queue.name for queue in queues]
    keys = [key for queue in queues for key in queue.look]

    def parse(reply: Any, _: bool) -> tuple[str, ...]:
        return tuple([names[int(index) - 1] for index in reply.split()])

    return Call(_LOOK, queues[0], keys, [consumer, renew_ms, len(queues[0].steps)], parse)


def _dead_lettered(queues: Sequence[str], flat: Sequence[Any]) -> list[DeadLettered]:
    return [
        DeadLettered(queues[flat[i] - 1], _text(flat[i + 1]), _text(flat[i + 2]), flat[i + 3])
        for i in range(0, len(flat), 4)
    ]


def renewal_ms(lease_ms: int) -> int:
    """Between two renewals of a lease of so many ms: a third of it, 20 s at most."""
    return max(1, min(lease_ms // 3, 20_000))


# ── what a holder does with a receipt ─────────────────────────────────────────────────────────

_ACK = scripts.declared("ack", keys=("unacked", "records", "stats"), argv=("receipt * item",))


def ack(keys: QueueKeys, receipts: Sequence[str]) -> Call[list[Verdict]]:
    """These messages are done with; one verdict each."""
    return Call(_ACK, keys, keys.ack, receipts, _missing(_items("receipts", receipts)))


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
    _items("receipts", items)
    args = [_whole("delay_ms", delay_ms, 0, 1 << 42), arguments.flag("front", front)]
    args += (arguments.flag("counted", counted), max_bytes)
    return Call(
        _RELEASE, keys, keys.release, [*args, *(x for item in items for x in item)], _verdicts
    )


_EXTEND = scripts.declared(
    "extend",
    keys=("unacked", "records", "meta"),
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
    """Hold these messages for `lease_ms` from now; one verdict each.

    `beside` says that their consumer holds more than these, so that they are not alone any more.
    """
    n = _items("receipts", receipts)
    args = [
        _whole("lease_ms", lease_ms, 0, 31_622_400_000),
        renew_ms or renewal_ms(lease_ms),
        int(beside),
    ]
    return Call(_EXTEND, keys, keys.extend, [*args, *receipts], _missing(n))


_REJECT = scripts.declared(
    "reject",
    keys=("unacked", "records", "dead", "stats", "result * item"),
    argv=(
        "ttl_ms",
        "max_bytes",
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
    """What to tell whoever waits for its result, as JSON; "": nothing."""


def reject(
    keys: QueueKeys,
    items: Sequence[Rejection],
    *,
    ttl_ms: int = 86_400_000,
    max_bytes: int = MAX_BYTES,
) -> Call[list[Verdict]]:
    """Move messages to dead letters, with the reason; one verdict each, AGAIN among them."""
    _items("receipts", items)
    args: list[Any] = [ttl_ms, max_bytes]
    for item in items:
        check_reason(item.reason)
        args += (item.receipt, item.reason, arguments.readable(item.detail, 4096), item.value)
    results = [keys.result(item.id) for item in items]
    return Call(_REJECT, keys, (*keys.reject, *results), args, _verdicts)


_DEAD_LETTER = scripts.declared(
    "dead_letter",
    keys=("dead", "stats"),
    argv=("call_id", "attempt", "reason", "detail", "step", "message"),
)


def dead_letter(
    keys: QueueKeys, message: bytes, *, call_id: str, reason: str, detail: str = "", step: int = 1
) -> Call[bool]:
    """Dead-letter a message that was popped off a ready list, without a lease.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    check_reason(reason)
    detail = arguments.readable(detail, 4096)
    args = [call_id, 0, reason, detail, _whole("step", step, 1, 10), message]
    return Call(
        _DEAD_LETTER, keys, keys.dead_letter, args, lambda reply, _: bool(reply), attempt_at=1
    )


_PUT_BACK = scripts.declared(
    "put_back", keys=("stats", "ready * step"), argv=("attempt", "message")
)


def put_back(keys: QueueKeys, message: bytes, *, step: int = 1) -> Call[bool]:
    """Return a message that was popped off a ready list, without a lease, to where it was.

    Whether it was added: False if this is a repeated call, and an earlier one did it.
    """
    ready = keys.ready[_whole("step", step, 1, len(keys.ready)) - 1]
    names = (keys.stats, ready)
    return Call(_PUT_BACK, keys, names, [0, message], lambda reply, _: bool(reply), attempt_at=0)


_COMPLETE = scripts.declared(
    "complete",
    keys=("unacked", "records", "stats", "result * item"),
    argv=("ttl_ms", "receipt * item", "value * item"),
)


def complete(
    keys: QueueKeys, items: Sequence[tuple[str, str, str]], *, ttl_ms: int = 86_400_000
) -> Call[list[Verdict]]:
    """Ack and store results: items of (receipt, message id, result as JSON); one verdict each."""
    n = _items("receipts", items)
    results = [keys.result(message_id) for _, message_id, _ in items]
    args = [ttl_ms, *(x for receipt, _, value in items for x in (receipt, value))]
    return Call(_COMPLETE, keys, (*keys.complete, *results), args, _missing(n))


_TELL = scripts.declared("tell", keys=("result * item",), argv=("ttl_ms", "value * item"))


def tell(
    keys: QueueKeys, items: Sequence[tuple[str, str]], *, ttl_ms: int = 86_400_000
) -> Call[int]:
    """Store results of messages that nobody holds: items of (message id, result as JSON).

    One that is there already stays. How many were stored.
    """
    _items("results", items)
    results = [keys.result(message_id) for message_id, _ in items]
    return Call(_TELL, keys, results, [ttl_ms, *(v for _, v in items)], lambda reply, _: reply)


def failed(message_id: str, reason: str, detail: str = "") -> str:
    """The result, as JSON, of a message that became a dead letter."""
    reason = f"{reason}: {detail}" if detail else reason
    return json.dumps({"id": message_id, "state": "failed", "reason": reason})


# ── what an operator does ─────────────────────────────────────────────────────────────────────

_CANCEL = scripts.declared(
    "cancel",
    keys=("delayed", "delayed_records", "ids", "meta", "stats", "result * item"),
    argv=("id * item",),
)


def cancel(keys: QueueKeys, ids: Sequence[str]) -> Call[list[Verdict]]:
    """Delayed messages, by id, are gone for good, and their ids forgotten; one verdict each."""
    results = map(keys.result, _names("ids", ids))
    return Call(_CANCEL, keys, (*keys.cancel, *results), ids, _missing(len(ids)))


_REDRIVE = scripts.declared(
    "redrive",
    keys=("dead", "wake", "meta", "stats", "ready * step", "result * item"),
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
    _names("ids", ids, least=0)
    _names("messages", messages, least=0)
    _names("after, until and reason", (after, until, reason))
    results = [keys.result(name) for name in messages or [""] * len(ids)]
    if len(results) != len(ids):
        raise InvalidArgument(f"{len(messages)} messages of {len(ids)} dead letters")
    args = [int(look), _whole("limit", limit, 1, MOST), max_bytes, after, until, reason, *ids]

    def parse(reply: Any, _repeated: bool) -> Redriven:
        flat = reply[3]
        found = [(_text(flat[i]), _message_id(flat[i + 1])) for i in range(0, len(flat), 2)]
        return Redriven(reply[0], reply[1], _text(reply[2]), found)

    return Call(_REDRIVE, keys, (*keys.redrive, *results), args, parse, large=True)


_PURGE = scripts.declared(
    "purge",
    keys=(*_QUEUE, "calls", "calls_old", "ids", "ready * step"),
    argv=("ready", "delayed", "unacked", "dead", "settings", "if_unused", "if_empty", "id * item"),
)


class Counts(NamedTuple):
    """Messages by the part of the queue they lie in."""

    ready: int = 0
    delayed: int = 0
    unacked: int = 0
    dead: int = 0


Part = Literal["ready", "delayed", "unacked", "dead"]


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
    dead_ids: Sequence[str] = (),
) -> Call[Counts]:
    """Throw away what lies in the parts named, or single dead letters; how many that were.

    With `if_unused` its run raises `QueueInUse`, and nothing is changed, if messages are unacked;
    with `if_empty`, if messages are ready or delayed.
    """
    _names("dead_ids", dead_ids, least=0)
    parts = (ready, delayed, unacked, dead, settings, if_unused, if_empty)
    flags = [arguments.flag("a part of purge", part) for part in parts]
    args = [*flags, *dead_ids]
    gone = GONE if settings and ready and delayed and unacked and dead else 0
    return Call(_PURGE, keys, keys.purge, args, lambda reply, _: Counts(*reply), noted=gone)


_PAUSE = scripts.declared("pause", keys=("wake", "meta"), argv=("paused",))


def pause(keys: QueueKeys, *, paused: bool = True) -> Call[bool]:
    """Stop (or resume) handing out messages; whether the queue was paused before."""
    return Call(_PAUSE, keys, keys.pause, [int(paused)], lambda reply, _: bool(reply))


_TOUCH = scripts.declared(
    "touch", keys=("wake", "meta", "stats", "ready * step"), argv=("expires_ms",)
)
LONGEST_LIFE = 3_162_240_000_000  # ms of a queue that expires: 100 years


def touch(keys: QueueKeys, expires_ms: int) -> Call[int]:
    """Let a queue that expires live on for so long; how many of its keys are there."""
    expires_ms = _whole("expires_ms", expires_ms, 1, LONGEST_LIFE)
    return Call(_TOUCH, keys, keys.touch, [expires_ms], lambda reply, _: reply)


_HAND_BACK = scripts.declared(
    "hand_back",
    keys=("unacked", "records", "delayed", "delayed_records", "stats", "ready * step"),
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
    args = [_whole("limit", limit, 1, MOST), max_bytes, int(unacked), int(delayed)]
    return Call(_HAND_BACK, keys, keys.hand_back, args, lambda reply, _: HandedBack(*reply))


_ATTEND = scripts.declared(
    "attend",
    keys=("delayed", "delayed_records", "wake", "meta", "stats", "ready * step"),
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
    args = [consumer, alive_ms, skip, _whole("limit", limit, 1, MOST), max_bytes]
    return Call(_ATTEND, keys, keys.attend, args, lambda reply, _: Attended(*reply))


_RESIGN = scripts.declared("resign", keys=("watch", "wake"), argv=("ttl_ms",))


def resign(keys: QueueKeys, *, ttl_ms: int) -> Call[None]:
    """Leave the watch for messages of stock producers to another consumer, and wake one."""
    args = [_whole("ttl_ms", ttl_ms, 1, 31_622_400_000)]
    return Call(_RESIGN, keys, (keys.watch, keys.wake), args, _none)


_INSPECT = scripts.declared("inspect", keys=(*_QUEUE, "ready * step"), argv=())


@dataclass(frozen=True)
class QueueState:
    """A queue in numbers."""

    name: str
    now_ms: int
    ready: int
    ready_by_priority: dict[int, int]
    unacked: int
    expired: int
    """Unacked messages past their deadline: the next claim gets them."""
    delayed: int
    due: int
    """Delayed messages that are due: the next claim gets them."""
    dead: int
    next_due_ms: int | None
    next_deadline_ms: int | None
    paused: bool
    inconsistent: int
    """Entries that have lost their other half; 0 unless somebody else wrote to the keys."""
    oldest: bytes
    """The next message out, if it is smaller than 64 KiB."""
    stats: dict[str, int]
    """How many messages were published, delivered, acked, … since the queue began."""


def inspect(keys: QueueKeys) -> Call[QueueState]:
    """A queue in numbers; changes nothing."""

    def parse(reply: Any, _repeated: bool) -> QueueState:
        (now, ready, unacked, expired, delayed, due, dead, next_due, deadline) = reply[:9]
        return QueueState(
            name=keys.name,
            now_ms=now,
            ready=sum(ready),
            ready_by_priority=dict(zip(keys.steps, ready, strict=True)),
            unacked=unacked,
            expired=expired,
            delayed=delayed,
            due=due,
            dead=dead,
            next_due_ms=next_due if next_due >= 0 else None,
            next_deadline_ms=deadline if deadline >= 0 else None,
            paused=_pairs(reply[12]).get("paused") == "1",
            inconsistent=reply[9] + reply[10],
            oldest=reply[11],
            stats={name: int(value) for name, value in _pairs(reply[13]).items()},
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
    _names("part and after", (part, after))
    _names("ids", ids, least=0)
    args = [part, after, _whole("offset", offset, 0, 10**9), _whole("limit", limit, 1, MOST)]

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
    reason, _, detail = _text(about).partition("\n") if part == "dead" else ("", "", "")
    died = int(name.partition(b"-")[0]) if part == "dead" else None
    since = int(about) if part != "dead" and about else None
    return Peeked(
        _text(name),
        died or (ms if ms >= 0 else None),
        deliveries,
        step,
        since,
        reason,
        detail,
        raw,
        serializer,
    )


_RESTORE_FOREIGN = scripts.declared(
    "restore_foreign",
    keys=(
        "stock_unacked",
        "stock_index",
        "dead",
        "stats",
        *(f"{x} * item" for x in ("ready", "wake", "meta")),
    ),
    argv=("visibility_s", "limit", "max_bytes", "tag * item"),
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
    """Take over from dead stock workers: (tag, queue, priority) to restore, and who else is there.

    `stock` names stock's hash and index. What cannot be parsed goes to the dead letters of `keys`.
    Stops once `max_bytes` were read: what is left is there the next time.
    """
    _items("targets", targets, least=0)
    names: list[str] = [*stock, keys.dead, keys.stats]
    for _, target, priority in targets:
        names += (target.ready[target.step_of(priority) - 1], target.wake, target.meta)

    def parse(reply: Any, _repeated: bool) -> tuple[int, list[Foreign]]:
        flat = reply[1]
        found = [
            Foreign(_text(flat[i]), _text(flat[i + 1]), _text(flat[i + 2]), int(flat[i + 3]))
            for i in range(0, len(flat), 4)
        ]
        return reply[0], found

    args: list[Any] = [_whole("visibility_s", visibility_s, 1, 10**9), limit, max_bytes]
    args += (tag for tag, _, _ in targets)
    return Call(_RESTORE_FOREIGN, keys, names, args, parse)


# ── the register ──────────────────────────────────────────────────────────────────────────────

_IN_REGISTER = ("queues", "processes", "alive")
_REGISTER = scripts.declared(
    "register",
    keys=_IN_REGISTER,
    argv=("process", "alive_ms", "gone", "entry", "queue * item"),
)


def register(
    keys: RegisterKeys,
    queues: Sequence[str] = (),
    *,
    process: str = "",
    alive_ms: int = 0,
    entry: str = "",
    gone: bool = False,
) -> Call[int]:
    """Names of queues (1,000 at most) are in use, or `gone`; how many that changed.

    `process`, if named, counts as there for `alive_ms`, and says of itself `entry`, which is JSON
    of at most 64 KiB; with 0 it leaves.
    """
    _names("queues", queues, least=0)
    args = [process, _whole("alive_ms", alive_ms, 0, 3_600_000), int(gone), entry, *queues]
    return Call(_REGISTER, keys, keys.every, args, lambda reply, _: int(reply))


_ROSTER = scripts.declared("roster", keys=_IN_REGISTER, argv=("after", "limit"))


@dataclass(frozen=True)
class Process:
    """A process that consumes, as it says of itself, 20 s ago at most while it is well."""

    name: str
    """What the names of its consumers, and so its receipts, begin with."""
    said_ms: int
    """When it said so, by the server's clock."""
    entry: dict[str, Any]

    @property
    def where(self) -> str:
        """Its host and pid, in words."""
        return f"{self.entry.get('host', '?')} (pid {self.entry.get('pid', '?')})"

    @property
    def queues(self) -> list[str]:
        """What it consumes: its first 100 queues."""
        found = self.entry.get("queues")
        return [str(name) for name in found] if isinstance(found, list) else []


class Roster(NamedTuple):
    """A page of the register."""

    now_ms: int
    queues: list[str]
    processes: list[Process]
    """The 1,000 at most that the server looked up."""
    alive: int
    """How many processes there are."""


def roster(keys: RegisterKeys, *, after: str = "", limit: int = MOST) -> Call[Roster]:
    """The names of queues behind `after`, and the processes that are there; changes nothing."""

    def parse(reply: Any, _repeated: bool) -> Roster:
        now, queues, flat, alive = reply
        entries = [_process(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        return Roster(now, [_text(name) for name in queues], [e for e in entries if e], alive)

    args = [arguments.text("after", after, LONGEST_NAME), _whole("limit", limit, 1, MOST)]
    return Call(_ROSTER, keys, keys.every, args, parse, large=True)


def _process(name: bytes, value: bytes) -> Process | None:
    said, _, text = _text(value).partition(" ")
    try:
        entry = json.loads(text)
        return Process(_text(name), int(said), entry) if isinstance(entry, dict) else None
    except (ValueError, RecursionError):
        return None  # of a release that is not known yet, or written by another program


_PROBE = scripts.declared("probe", keys=("probe",), argv=())


def probe(
    keys: QueueKeys | RegisterKeys, durability: Durability | None = None
) -> Call[dict[str, str]]:
    """The commands inside the scripts that this user may not run, with the server's words.

    It writes a scratch key, so that a `durability` can be tried on it.
    """
    return Call(
        _PROBE, keys, (keys.probe,), (), lambda reply, _: _pairs(reply), durability=durability
    )
