"""The page of one message, wherever it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atomq import calls
from atomq.calls import Peeked
from atomq.cli import messages
from atomq.cli.dead import dead_id
from atomq.cli.output import clean
from atomq.keys import QueueKeys
from atomq.web.numbers import known, spread
from atomq.web.query import did, number, part_of
from atomq.web.site import Site

if TYPE_CHECKING:
    from atomq.calls import MessageStatus, Part

SHOWN = 16_384  # characters of a body, and of a header
MOVED = 500  # places by which a ready message may have moved, for others left in front of it


def message(site: Site, request: Request) -> Response:
    """A message whole: headers, body, where it is and why. Or, by its id alone, where it is."""
    query = request.query_params
    state = known(site, query.get("queue") or query.get("name", ""))
    keys = site.session.keys(state.name)
    wanted = query.get("id", "").strip()
    status: MessageStatus | None = None
    if wanted and not (query.get("key") or query.get("at")):
        for keys in spread(site, state):
            status = site.session.reader.run(calls.find(keys, wanted))
            if status.state not in ("unknown", "gone"):
                break
        assert status is not None
        found = _as_peeked(status)
        if found is None:
            return _told(site, request, keys, status)
        part = _PARTS_OF[status.state]
    else:
        part = part_of(query.get("part") or "ready")
        found = _found(site, keys, part, request)
    if found is None:
        raise HTTPException(
            404, f"It is no {part} message of {state.name!r} any more: it moved on, or is gone."
        )
    row = messages.row(keys, part, found, whole=True)
    if part == "unacked":
        messages.name_holders(site.session, [row])
        if status is None and row["id"]:  # how far its holder is
            status = site.session.reader.run(calls.find(keys, row["id"], limit=0))
    return site.page(
        request,
        "message.html",
        title=row["id"] or "a message",
        now_ms=state.now_ms,
        part=part,
        row=row,
        status=status,
        headers={name: _cut(_text(value)) for name, value in row["headers"].items()},
        body=_cut(_text(row["body"])),
        detail=_cut(_text(row.get("detail", ""))).text,
        did=did(request),
    )


_PARTS_OF: dict[str, Part] = {
    "ready": "ready",
    "delayed": "delayed",
    "held": "unacked",
    "dead": "dead",
}


def _as_peeked(status: MessageStatus) -> Peeked | None:
    """A message that was found by its id, as one that is looked at; None: it lies nowhere."""
    if status.raw is None or status.state not in _PARTS_OF:
        return None
    name = {"delayed": status.id, "held": status.receipt, "dead": status.letter}
    time_ms = {
        "delayed": status.due_ms,
        "held": status.lease_ends_ms,
        "dead": status.since_ms,
    }
    return Peeked(
        name.get(status.state, ""),
        time_ms.get(status.state),
        status.deliveries or 0,
        status.step or 1,
        status.since_ms,
        status.reason,
        status.detail,
        status.raw,
    )


def _told(site: Site, request: Request, keys: QueueKeys, status: MessageStatus) -> Response:
    """What is known of a message that lies nowhere."""
    return site.page(
        request,
        "status.html",
        title=status.id,
        now_ms=status.now_ms,
        queue=keys.name,
        status=status,
        detail=_cut(_text(status.detail)),
        result=_cut("" if status.result is None else _text(status.result)),
        did=did(request),
    )


def _found(site: Site, keys: QueueKeys, part: Part, request: Request) -> Peeked | None:
    name = request.query_params.get("key", "")
    reader = site.session.reader
    if part in ("delayed", "unacked"):
        return next(iter(reader.run(calls.peek(keys, part, ids=[name]))), None)
    if part == "dead":
        return messages.dead_letter(site.session, keys, dead_id(name))
    # Of what is ready the place is known, and the id; meanwhile others may have left in front.
    at, wanted = number(request, "at"), request.query_params.get("id", "")
    first = max(0, at - MOVED + 1)
    for each in reversed(reader.run(calls.peek(keys, part, offset=first, limit=at - first + 1))):
        if not wanted or messages.row(keys, part, each)["id"] == wanted:
            return each
    return None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return "\n".join(map(clean, text.split("\n")))


@dataclass(frozen=True)
class Cut:
    """A text, as much of it as is shown."""

    text: str
    whole: int
    """Its characters."""

    @property
    def left(self) -> int:
        """How many are not shown."""
        return self.whole - len(self.text)


def _cut(text: str) -> Cut:
    return Cut(text[:SHOWN], len(text))
