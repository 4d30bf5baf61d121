"""One message by its id: where it is, what becomes of it, how far its holder is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal

from atomq import arguments, fork, scripts
from atomq.calls.base import (
    LONGEST_NAME,
    MAX_BYTES,
    MOST,
    Call,
    Verdict,
    as_text,
    check_names,
    id_of,
    read_missing,
)
from atomq.keys import QueueKeys
from atomq.message import Envelope, tracked_name
from atomq.serializers import JSON, Serializer

State = Literal[
    "ready", "delayed", "held", "done", "failed", "dead", "cancelled", "gone", "unknown"
]

_RECORD = re.compile(r"([a-z]) (\d+) ([^\n]*)(?:\n(.*))?", re.DOTALL)

_FIND = scripts.declared(
    "find",
    keys=(
        "unacked",
        "records",
        "delayed",
        "delayed_records",
        "dead",
        "track0",
        "track1",
        "cancelled",
        "put",
        "result",
        "ready * step",
    ),
    argv=("tracked", "id", "written", "limit", "max_bytes"),
)


@dataclass(frozen=True)
class Progress:
    """How far the holder of a message is, as it said."""

    fraction: float | None
    """From 0 to 1; None: it did not say."""
    text: str = ""
    at_ms: int = 0
    """When it said so, by the server's clock."""


@dataclass(frozen=True)
class MessageStatus:
    """Where one message is, at the moment the server was asked. Times are the server's, in ms.

    `state` is one of:

    - `ready`, `delayed`, `held` or `dead`: it is in the queue.
    - `done`: a consumer acked it, or completed it with `result`; `failed`: its result says that it
      went to dead letters, which hold it no more. `cancelled`: by an operator.
    - `gone`: it was here and is not any more, and what ended it left no word: a purge, a program
      that knows nothing of tracking.
    - `unknown`: nothing tells. `note` says why.
    """

    id: str
    state: State
    now_ms: int
    certain: bool = True
    """False: so says the record of a tracked message, and it was not looked for among all others.
    A stock worker, or one of an older release, that took it since has left no word. Of an
    `unknown` one: not all messages of the queue were searched for it."""
    tracked: bool = False
    """There is a record of it, which lasts for one to two days after it last moved."""
    note: str = ""
    since_ms: int | None = None
    """When it came to be so, if that is known; of a held one, when it was claimed."""
    due_ms: int | None = None
    """When a delayed one falls due."""
    lease_ends_ms: int | None = None
    """When the lease of a held one ends, unless it is renewed. If that is over, the next claim
    takes the message."""
    deliveries: int | None = None
    """How often it was handed out, this time included."""
    step: int | None = None
    """Its 1-based priority step."""
    receipt: str = ""
    """Of a held one."""
    host: str = ""
    """Of the process that holds it, as far as the register knows it."""
    pid: int | None = None
    cancelling: bool = False
    """It is held and cancelled: its holder hears of it with its next renewal."""
    letter: str = ""
    """The name of the dead letter, as `peek` and `redrive` have it."""
    reason: str = ""
    """Why it is dead, or failed."""
    detail: str = ""
    result: Any = None
    """What it was completed with."""
    progress: Progress | None = None
    apart: str = field(default="", repr=False, compare=False)
    """What it is called in the server while it waits for a consumer that holds nothing else."""
    raw: bytes | None = field(default=None, repr=False)
    """The envelope as it lies in the server, if it does."""
    serializer: Serializer = field(default=JSON, repr=False, compare=False)

    @property
    def holder(self) -> str:
        """The consumer that holds it: the front of its receipt."""
        return self.receipt.rpartition("-")[0]

    @property
    def process(self) -> str:
        """The name of the process that holds it, as in the register: see `roster`."""
        return self.holder[: fork.NAME]

    @property
    def body(self) -> Any:
        """What was put; None if the server has it no more. Raises `InvalidMessage`."""
        return None if self.raw is None else Envelope(self.raw).body(self.serializer)


def find(
    keys: QueueKeys,
    message_id: str,
    *,
    limit: int = MOST,
    max_bytes: int = MAX_BYTES,
    serializer: Serializer = JSON,
) -> Call[MessageStatus]:
    """Where a message is. Changes nothing.

    What no id leads to is searched for among so many unacked, ready and dead messages each.
    """
    arguments.text("id", message_id, LONGEST_NAME, least=1)
    names = (*keys.find, keys.put(message_id), keys.result(message_id), *keys.ready)
    args = [
        tracked_name(message_id),
        message_id,
        quoted(message_id)[1:-1],
        arguments.whole("limit", limit, 0, MOST),
        max_bytes,
    ]

    def parse(reply: Any, _repeated: bool) -> MessageStatus:
        now, record, result, dropped, *left, flat = reply
        rows = [flat[i : i + 8] for i in range(0, len(flat), 8)]
        its = [row for row in rows if row[1] or id_of(row[7]) == message_id]
        its.sort(key=_is_cancelling)  # what was put under the id of such a one goes first
        row = its[0] if its else None
        known = _RECORD.fullmatch(as_text(record))
        said = _Said(*known.groups()) if known else None
        about: dict[str, Any] = {
            "id": message_id,
            "now_ms": now,
            "tracked": said is not None,
            "serializer": serializer,
        }
        if row is not None:
            return MessageStatus(**about, **_there(row, said, dropped == 1))
        searched = not any(left)
        return MessageStatus(**about, **_not_there(said, result, left, searched=searched))

    return Call(_FIND, keys, names, args, parse, large=True)


class _Said:
    """A record of a tracked message: see `lua/lib/tracking.lua`."""

    def __init__(self, state: str, us: str, name: str, progress: str | None) -> None:
        self.state, self.ms, self.name = state, int(us) // 1000, name
        self.progress: Progress | None = None
        try:
            fraction, text = json.loads(progress or "null")
            self.progress = Progress(fraction, str(text), self.ms)
        except (TypeError, ValueError):
            pass


def _is_cancelling(row: Sequence[Any]) -> bool:
    return as_text(row[0]) == "unacked" and as_text(row[6]).endswith(" 1")


def _there(row: Sequence[Any], said: _Said | None, dropped: bool) -> dict[str, Any]:
    part, _, name, ms, deliveries, step, known, raw = row
    part, name, known = as_text(part), as_text(name), as_text(known)
    found = {"deliveries": deliveries, "step": step, "raw": raw}
    if part == "delayed":
        return {**found, "state": part, "due_ms": ms, "since_ms": int(known) if known else None}
    if part == "dead":
        reason, _, detail = known.partition("\n")
        died = int(name.partition("-")[0])
        about = {"letter": name, "reason": reason, "detail": detail, "since_ms": died}
        return {**found, "state": part, **about}
    since = said.ms if said is not None and said.state == "r" else None
    if part == "ready":
        return {**found, "state": "cancelled" if dropped else part, "since_ms": since}
    claimed, _, more = known.partition(" ")
    if more == "2":
        note = "it waits for a consumer that holds nothing else"
        return {**found, "state": "ready", "note": note, "apart": name}
    progress = said.progress if said is not None and said.name == name else None
    return {
        **found,
        "state": "held",
        "receipt": name,
        "since_ms": int(claimed) if claimed else None,
        "lease_ends_ms": ms,
        "cancelling": more == "1",
        "progress": progress,
    }


def _not_there(
    said: _Said | None, result: bytes, left: Sequence[int], *, searched: bool
) -> dict[str, Any]:
    unsearched = f"{sum(left):,} messages of the queue were not searched for it"
    since = said.ms if said is not None else None
    if said is not None and said.state == "x":
        return {"state": "cancelled", "since_ms": since}
    if result:
        return {**_ended(result), "since_ms": since if said and said.state == "a" else None}
    if said is None:
        note = "not tracked: " + (
            "it is not in the queue, and what became of it cannot be known"
            if searched
            else unsearched
        )
        return {"state": "unknown", "note": note, "certain": searched}
    if said.state == "a":
        return {"state": "done", "since_ms": since}
    if said.state == "r" and left[1]:
        return {"state": "ready", "since_ms": since, "certain": False}
    was = {"r": "ready", "w": "delayed", "h": "held", "d": "a dead letter"}.get(said.state, "?")
    note = f"it was {was}; what ended that left no word"
    if searched:
        return {"state": "gone", "note": note}
    return {"state": "unknown", "note": f"{note}, and {unsearched}", "certain": False}


def _ended(result: bytes) -> dict[str, Any]:
    try:
        said = json.loads(result)
        if said["state"] == "failed":
            reason = str(said.get("reason", ""))
            return {"state": "failed", "reason": reason, "detail": str(said.get("detail", ""))}
        return {"state": "done", "result": said.get("value")}
    except Exception:  # noqa: BLE001 - any program may have written it
        return {"state": "done", "note": "what is stored as its result is none"}


_REVOKE = scripts.declared(
    "revoke",
    keys=(
        "unacked",
        "records",
        "ids",
        "meta",
        "stats",
        "track0",
        "track1",
        "cancelled",
        "put",
        "result",
        "ready * step",
    ),
    argv=("tracked", "id", "receipt", "limit", "message"),
)


def revoke(
    keys: QueueKeys,
    message_id: str,
    *,
    receipt: str = "",
    message: bytes = b"",
    limit: int = MOST,
) -> Call[bool]:
    """Cancel a message that is held under this receipt, or ready; whether it was there.

    What is ready is `message`, as it lies there; without it, it is dropped by the claim that meets
    it, if its record says that it is ready. What waits to go alone has both, receipt and message.
    """
    check_names("id and receipt", (message_id, receipt))
    names = (*keys.revoke, keys.put(message_id), keys.result(message_id), *keys.ready)
    limit = arguments.whole("limit", limit, 0, MOST)
    args = [tracked_name(message_id), message_id, receipt, limit, message]
    return Call(
        _REVOKE,
        keys,
        names,
        args,
        lambda reply, repeated: bool(reply) or (repeated and bool(message or not receipt)),
    )


_RUN_NOW = scripts.declared(
    "run_now",
    keys=("delayed", "delayed_records", "wake", "meta"),
    argv=("id * item",),
)


def run_now(keys: QueueKeys, ids: Sequence[str]) -> Call[list[Verdict]]:
    """Delayed messages, by id, fall due at once; one verdict each."""
    check_names("ids", ids)
    return Call(_RUN_NOW, keys, keys.run_now, ids, partial(read_missing, len(ids)))


_PROGRESS = scripts.declared(
    "progress",
    keys=("unacked", "track0", "track1"),
    argv=("tracked", "receipt", "value"),
)


def progress(
    keys: QueueKeys, message_id: str, receipt: str, fraction: float | None, text: str = ""
) -> Call[bool]:
    """Note how far the holder of a message is, from 0 to 1; whether it holds it."""
    if fraction is not None:
        known = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        arguments.expect(
            "fraction", fraction, known and 0 <= fraction <= 1, "a number from 0 to 1, or None"
        )
    arguments.expect("text", text, isinstance(text, str), "text")
    value = json.dumps([fraction, arguments.readable(text, 4096)])
    args = [tracked_name(message_id), receipt, value]
    return Call(_PROGRESS, keys, keys.progress, args, lambda reply, _: bool(reply))
