"""What every verb is made of: the call, the checks of its arguments, the readers of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

from atomq import arguments
from atomq.arguments import LARGEST
from atomq.conversation import packed
from atomq.durability import Durability
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.keys import ExchangeKeys, Place, QueueKeys, RegisterKeys
from atomq.message import Envelope
from atomq.scripts import Script

T = TypeVar("T")

T_co = TypeVar("T_co", covariant=True)

MOST = 1000  # messages, receipts or ids in one call

MAX_BYTES = 1 << 20  # what one call moves before it stops: 1 MiB

NO_CAP = 0  # of max_deliveries

FEW = 10  # messages: the answer to a claim of more is large

LONGEST_NAME = 1 << 20  # characters of an id that others gave

SOLE, HOLDS = 0, 1  # of company


class Call(Generic[T_co]):
    """One script call: what to send, and how to read the answer.

    `keys` are a tuple where other calls have the same ones: these are packed once. They are a list
    where each call has others: of those nothing is kept. `repeated` tells
    that an earlier, equal call may have been carried out without an answer, and `large` that its
    answer may be large: small calls do not wait behind it. `durability` is what has to be confirmed
    before it is answered; such a call writes, also when it is repeated. With a `place`, that node
    of a cluster is to be asked, this once, as the owner of the slot said by ASK. A `brief` call is
    tried once, and answered within a second or not at all: there are other servers to be asked.
    `noted` is what the register is to know of the queue afterwards: that it is IN_USE, or GONE.
    """

    __slots__ = (
        "_attempt_at",
        "args",
        "brief",
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
        queue: QueueKeys | RegisterKeys | ExchangeKeys,
        keys: Sequence[str],
        args: Sequence[Any],
        parse: Callable[[Any, bool], T_co],
        attempt_at: int | None = None,
        *,
        large: bool = False,
        noted: int = 0,
        durability: Durability | None = None,
    ) -> None:
        self.script = script
        self.queue = queue
        self.keys = keys
        self.args = args
        self.parse = parse
        self.large = large
        self.noted = noted
        self.repeated = self.brief = False
        self.durability = durability
        self.place: Place | None = None
        self._attempt_at = attempt_at

    def command(self) -> tuple[Any, ...]:
        """The command to send."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def packed(self) -> bytes:
        """The same as it is sent. Raises redis-py's `DataError` for a word of another type."""
        if type(self.keys) is not tuple:
            return packed(self.command())
        args = self.args
        words = packed(args)
        head = _packed_head(self.script.sha, self.keys, len(args))
        return head + words[words.index(b"\n") + 1 :]

    def again(self) -> Call[T_co]:
        """The call to send after this one got no answer: harmless if this one was carried out."""
        call = self.at(None)
        call.repeated = True
        if self._attempt_at is not None:
            call.args = [*self.args]
            call.args[self._attempt_at] = min(call.args[self._attempt_at] + 1, 9)
        return call

    def at(self, place: Place | None) -> Call[T_co]:
        """The same call, to be sent to that node; None: to the one that the slot map names."""
        call = copy(self)
        call.place, call.brief = place, False
        return call

    def __repr__(self) -> str:
        return f"Call({self.script.name} {self.queue.name!r}, {len(self.args)} arguments)"


@lru_cache(maxsize=1024)
def _packed_head(sha: str, keys: tuple[str, ...], count: int) -> bytes:
    """What calls of one script have in common that have the same keys and so many arguments."""
    words = packed(("EVALSHA", sha, len(keys), *keys))
    return b"*%d%b" % (3 + len(keys) + count, words[words.index(b"\r") :])


class Verdict(Enum):
    """What became of one item of a batch."""

    DONE = "done"
    LOST = "lost"
    """Its receipt (or id) is not live: nothing was changed."""
    UNKNOWN = "unknown"
    """As LOST, but the call was repeated after a lost reply: the first one may have done it."""
    CANCELLED = "cancelled"
    """Renewed as asked; but an operator cancelled its message, and the holder is to stop."""
    AGAIN = "again"
    """Not reached within the bytes of one call: call again with this item."""


def read_missing(n: int, reply: Any, repeated: bool) -> list[Verdict]:
    """Read a list of the 1-based positions of those of `n` items that were not there."""
    verdicts = [Verdict.DONE] * n
    for position in reply:
        verdicts[position - 1] = Verdict.UNKNOWN if repeated else Verdict.LOST
    return verdicts


def read_verdicts(reply: Any, repeated: bool) -> list[Verdict]:
    """Read a list of one number an item: 0, 1 or 2."""
    known = (Verdict.UNKNOWN if repeated else Verdict.LOST, Verdict.DONE, Verdict.AGAIN)
    return [known[verdict] for verdict in reply]


def read_nothing(_reply: Any, _repeated: bool) -> None:
    """For a call whose answer is of no interest."""
    return


def tracked_last(words: Sequence[str]) -> Sequence[str]:
    """Receipts to ack, in the order that scripts want: see `Delivery.word`."""
    try:
        some_are = " " in "".join(words)
    except TypeError:  # some are no text
        some_are = any(map(is_tracked, words))
    return sorted(words, key=is_tracked) if some_are else words


def is_tracked(word: Any) -> bool:
    """Whether what acks a message says that it is tracked."""
    return type(word) is str and " " in word


def read_missing_of(given: Sequence[str]) -> Callable[[Any, bool], list[Verdict]]:
    """The same as `read_missing`, where what was sent is `tracked_last` of what was given."""
    places = sorted(range(len(given)), key=lambda at: is_tracked(given[at]))

    def in_order(reply: Any, repeated: bool) -> list[Verdict]:
        return read_missing(len(given), [places[at - 1] + 1 for at in reply], repeated)

    return in_order


_LISTS = (list, tuple)


def check_items(what: str, given: Sequence[Any], *, least: int = 1) -> int:
    """How many items these are. Raises `InvalidArgument` for too few or too many in one call."""
    if type(given) in _LISTS and least <= len(given) <= MOST:  # as nearly always
        return len(given)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise InvalidArgument(f"{what} must be a list, got {arguments.shown(given)}")
    if not least <= len(given) <= MOST:
        raise InvalidArgument(f"{what}: from {least} to {MOST} in one call, got {len(given)}")
    return len(given)


def check_names(what: str, given: Sequence[Any], *, least: int = 1) -> Sequence[str]:
    """Ids that the caller names: so many in one call, each text that can be sent."""
    check_items(what, given, least=least)
    for each in given:
        arguments.text(what, each, LONGEST_NAME)
    return given


def check_size(what: str, text: str | bytes) -> None:
    """Refuse what no server takes before it is sent. Raises `InvalidMessage`."""
    if len(text) > LARGEST:
        raise InvalidMessage(f"{what} has {len(text):,} bytes; a server takes at most {LARGEST:,}")


def check_reason(reason: str) -> None:
    """Why a message was rejected: a line of 1 to 64 characters. Raises `InvalidArgument`."""
    if not isinstance(reason, str) or not 1 <= len(reason) <= 64 or "\n" in reason:
        shown = arguments.shown(reason)
        raise InvalidArgument(f"reason must be one line of 1 to 64 characters: {shown}")
    arguments.text("reason", reason, len(reason))


def check_limit(limit: int) -> None:
    """How many messages may be asked for in one claim: 1 to 1,000. Raises `InvalidArgument`."""
    arguments.whole("limit", limit, 1, MOST)


def as_text(value: bytes | str) -> str:
    """A part of an answer as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def as_pairs(flat: Any) -> dict[str, str]:
    """Names and values of an answer."""
    if isinstance(flat, dict):
        return {as_text(name): as_text(value) for name, value in flat.items()}
    return {as_text(flat[i]): as_text(flat[i + 1]) for i in range(0, len(flat), 2)}


QUEUE = ("unacked", "records", "delayed", "delayed_records", "dead", "wake", "meta", "stats")

LOOKED = ("unacked", "delayed", "meta", "looked")


def id_of(raw: bytes) -> str:
    """The id of a message, or "" where it cannot be read."""
    try:
        return Envelope(raw).id
    except InvalidMessage:
        return ""


def renewal_ms(lease_ms: int) -> int:
    """Between two renewals of a lease of so many ms: a third of it, 20 s at most."""
    return max(1, min(lease_ms // 3, 20_000))


Part = Literal["ready", "delayed", "unacked", "dead"]
