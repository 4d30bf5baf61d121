"""The page of one queue: its numbers, and the messages of one of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from atomq import calls
from atomq.calls import Peeked
from atomq.cli import messages
from atomq.errors import AtomqError, PermissionDenied
from atomq.keys import QueueKeys
from atomq.partitions import queue_of
from atomq.web.numbers import known, shown
from atomq.web.query import did, number, part_of
from atomq.web.samples import HEIGHT, WIDTH
from atomq.web.site import Site

if TYPE_CHECKING:
    from atomq.calls import Part

MESSAGES = 50
LOOKED = 500  # entries in which a filter looks at once

_NAMED = {"ready": "Ready", "delayed": "Delayed", "unacked": "Held", "dead": "Dead"}


def queue(site: Site, request: Request) -> Response:
    """A queue: its numbers, and the messages of one of its parts.

    Of a queue over several partitions it lists those of the first partition that has any there; the
    others have pages of their own.
    """
    query = request.query_params
    part = part_of(query.get("part") or "ready")
    state = known(site, query.get("name", ""))
    parts = state.by_partition or (state,)  # those that answered
    home = next((each for each in parts if getattr(each, part)), parts[0])
    listed = _listed(site, site.session.keys(home.name), part, request)
    if part == "unacked":
        messages.name_holders(site.session, listed.rows)
    return site.page(
        request,
        "queue.html",
        title=state.name,
        now_ms=state.now_ms,
        queue=shown(site, [state])[0],
        whole=_whole_of(site, state.name),
        home=home.name,
        part=part,
        parts_named=_NAMED,
        listed=listed,
        total=getattr(home, part),
        id=query.get("id", ""),
        reason=query.get("reason", ""),
        before=query.get("before", ""),
        did=did(request),
        size=(WIDTH, HEIGHT),
    )


def _whole_of(site: Site, name: str) -> str:
    """The queue that this is a partition of; "": it is none."""
    queue = queue_of(name)
    if queue:
        try:
            state = site.session.reader.run(calls.inspect(site.session.keys(queue)))
        except AtomqError:  # it is a link that is left out
            return ""
        queue = queue if name in state.partitions else ""
    return queue


@dataclass(frozen=True)
class Listed:
    """A page of messages."""

    rows: list[dict[str, Any]]
    at: int = 0
    """How many stand in front of this page; dead letters are not counted."""
    looked: int = 0
    """In how many a filter looked."""
    further: dict[str, Any] | None = None
    """What leads to the next page."""
    newest: bool = False
    """Whether it is dead letters, the newest first."""


def _listed(site: Site, keys: QueueKeys, part: Part, request: Request) -> Listed:
    wanted = request.query_params.get("id", "").strip()
    if part == "dead":
        reason = request.query_params.get("reason", "").strip()
        return _dead(site, keys, wanted, reason, request.query_params.get("before", ""))
    at = number(request, "at")
    if wanted and part == "delayed":
        found = site.session.reader.run(calls.peek(keys, part, ids=[wanted]))
        return Listed([messages.row(keys, part, each) for each in found], looked=1)
    limit = LOOKED if wanted else MESSAGES
    found = site.session.reader.run(calls.peek(keys, part, limit=limit, offset=at))
    rows = [messages.row(keys, part, each) | {"at": at + n} for n, each in enumerate(found)]
    further = {"at": at + len(found)} if len(found) == limit or _was_cut(found) else None
    if wanted:
        kept = [row for row in rows if wanted in (row["id"] or "")]
        return Listed(kept, at, len(rows), further)
    return Listed(rows, at, 0, further)


def _was_cut(found: list[Peeked]) -> bool:
    """Whether the call may have stopped at its bytes."""
    return sum(len(each.raw) for each in found) >= calls.MAX_BYTES


def _dead(site: Site, keys: QueueKeys, wanted: str, reason: str, before: str) -> Listed:
    limit = LOOKED if wanted or reason else MESSAGES
    newest = True
    try:
        letters = messages.newest_dead(
            site.session, keys, since_ms=0, before=before, together=limit
        )
        found = list(islice(letters, limit))
    except PermissionDenied:  # a user of an ACL without +xrevrange
        newest = False
        found = site.session.reader.run(calls.peek(keys, "dead", limit=limit, after=before))
    rows = [messages.row(keys, "dead", each) for each in found]
    is_more = len(found) == limit or (not newest and _was_cut(found))
    further = {"before": found[-1].name} if found and is_more else None
    if not (wanted or reason):
        return Listed(rows, further=further, newest=newest)
    kept = [
        row
        for row in rows
        if reason in ("", row["reason"]) and wanted in (row["id"] or row["dead_id"])
    ]
    return Listed(kept, 0, len(rows), further, newest)
