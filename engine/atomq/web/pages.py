"""The pages to look at. None of them changes anything, and none searches the database for keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atomq import calls
from atomq.calls import Peeked
from atomq.cli import messages
from atomq.cli.dead import dead_id
from atomq.cli.messages import PARTS
from atomq.cli.output import clean
from atomq.cli.workers import row as worker_row
from atomq.errors import AtomqError, PermissionDenied
from atomq.keys import QueueKeys
from atomq.partitions import queue_of
from atomq.web.samples import HEIGHT, WIDTH, Sample, Seen
from atomq.web.site import Site

if TYPE_CHECKING:
    from atomq.calls import MessageStatus, Part, QueueOverview
    from atomq.overview import Overview

Page = Callable[[Site, Request], Response]

QUEUES = 200  # on a page
MESSAGES = 50
LOOKED = 500  # entries in which a filter looks at once
SHOWN = 16_384  # characters of a body, and of a header

_NAMED = {"ready": "Ready", "delayed": "Delayed", "unacked": "Held", "dead": "Dead"}

# What was done, as the page says it afterwards: only the number comes from the address.
DID = {
    "pause": "Paused.",
    "resume": "Resumed.",
    "redrive": "{} put back to ready.",
    "discard": "{} thrown away.",
    "purge": "{} thrown away.",
    "cancel": "{} cancelled.",
    "run": "{} due now.",
    "release": "{} given back to ready.",
}


# ── queues ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Shown:
    """A queue in numbers, with its last minutes."""

    now: QueueOverview
    seen: Seen


def queues(site: Site, request: Request) -> Response:
    """All queues of the register in numbers, 200 on a page: two server calls."""
    found = _overview(site, after=request.query_params.get("after", ""), limit=QUEUES)
    states = [q for q in found.queues if not q.is_empty or q.paused or found.consumers_of(q.name)]
    return site.page(
        request,
        "queues.html",
        title="Queues",
        now_ms=max((state.now_ms for state in states), default=0),
        queues=_shown(site, states),
        unreadable=found.unreadable,
        next=found.next,
        after=request.query_params.get("after", ""),
        did=_did(request),
        size=(WIDTH, HEIGHT),
    )


def _overview(site: Site, **wanted: Any) -> Overview:
    return site.session.reader.overview(**wanted)


def _shown(site: Site, states: list[QueueOverview]) -> list[Shown]:
    samples = {
        state.name: Sample(
            state.now_ms,
            state.backlog,
            state.stats.get("published", 0),
            state.stats.get("acked", 0) + state.stats.get("completed", 0),
        )
        for state in states
    }
    seen = site.samples.note(samples)
    return [Shown(state, seen[state.name]) for state in states]


def _did(request: Request) -> str:
    """What was done a moment ago, in words."""
    words = DID.get(request.query_params.get("did", ""), "")
    count, left = (_number(request, name) for name in ("n", "left"))
    said = words.format(f"{count:,} message{'' if count == 1 else 's'}")
    rest = (
        f" {left:,} not: no longer there, or not to be found or decoded." if words and left else ""
    )
    return said + rest


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0


# ── one queue ─────────────────────────────────────────────────────────────────────────────────


def queue(site: Site, request: Request) -> Response:
    """A queue: its numbers, and the messages of one of its parts.

    Of a queue over several partitions it lists those of the first partition that has any there; the
    others have pages of their own.
    """
    query = request.query_params
    part = _part(query.get("part") or "ready")
    state = known(site, query.get("name", ""))
    home = next((each for each in state.by_partition if getattr(each, part)), state)
    listed = _listed(site, site.session.keys(home.name), part, request)
    if part == "unacked":
        messages.name_holders(site.session, listed.rows)
    return site.page(
        request,
        "queue.html",
        title=state.name,
        now_ms=state.now_ms,
        queue=_shown(site, [state])[0],
        whole=_whole_of(site, state.name),
        home=home.name,
        part=part,
        parts_named=_NAMED,
        listed=listed,
        total=getattr(home, part),
        id=query.get("id", ""),
        reason=query.get("reason", ""),
        before=query.get("before", ""),
        did=_did(request),
        size=(WIDTH, HEIGHT),
    )


def _part(name: str) -> Part:
    if name not in PARTS:
        raise HTTPException(404, f"A queue has no part {name!r}: {', '.join(PARTS)}.")
    return cast("Part", name)


def known(site: Site, name: str) -> QueueOverview:
    """A queue in numbers. Raises `HTTPException` (404) if there is none of this name."""
    site.session.keys(name)  # which says what no queue may be called
    found = _overview(site, names=[name]).queues[0]
    if found.is_empty and not found.paused:
        names = site.session.reader.run(calls.roster(site.session.engine.register.keys)).queues
        if name not in names:
            near = get_close_matches(name, names, 1)
            maybe = f" Did you mean {near[0]!r}?" if near else ""
            raise HTTPException(404, f"There is no queue {name!r}.{maybe}")
    return found


def spread(site: Site, state: QueueOverview) -> list[QueueKeys]:
    """The keys of a queue, or else of its partitions."""
    return [site.session.keys(name) for name in state.partitions or (state.name,)]


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
    at = _number(request, "at")
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


# ── one message ───────────────────────────────────────────────────────────────────────────────


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
        part = _part(query.get("part") or "ready")
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
        did=_did(request),
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
        did=_did(request),
    )


def _found(site: Site, keys: QueueKeys, part: Part, request: Request) -> Peeked | None:
    name = request.query_params.get("key", "")
    reader = site.session.reader
    if part in ("delayed", "unacked"):
        return next(iter(reader.run(calls.peek(keys, part, ids=[name]))), None)
    if part == "dead":
        return messages.dead_letter(site.session, keys, dead_id(name))
    # Of what is ready the place is known, and the id; meanwhile others may have left in front.
    at, wanted = _number(request, "at"), request.query_params.get("id", "")
    first = max(0, at - LOOKED + 1)
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


# ── dead letters, workers, doctor ─────────────────────────────────────────────────────────────


def dead(site: Site, request: Request) -> Response:
    """Dead letters of all queues, by their reasons."""
    found = _overview(site, after=request.query_params.get("after", ""), limit=QUEUES)
    states = [state for state in found.queues if state.dead or state.dead_by_reason]
    return site.page(
        request,
        "dead.html",
        title="Dead letters",
        queues=sorted(states, key=lambda state: -state.dead),
        total=sum(state.dead for state in states),
        next=found.next,
        after=request.query_params.get("after", ""),
        did=_did(request),
    )


def workers(site: Site, request: Request) -> Response:
    """The processes that consume."""
    found = site.session.reader.run(calls.roster(site.session.engine.register.keys, limit=1))
    rows = [worker_row(process) for process in found.processes]
    return site.page(
        request,
        "workers.html",
        title="Workers",
        now_ms=found.now_ms,
        workers=sorted(rows, key=lambda row: (row["host"] or "", row["pid"] or 0)),
        alive=found.alive,
    )


def doctor(site: Site, request: Request) -> Response:
    """What `atomq doctor` says, when it is asked to: it looks through the database."""
    from atomq.cli import checks
    from atomq.cli.findings import Finding, advice_for

    findings: list[Finding] | None = None
    if request.query_params.get("run"):
        findings = []
        names = site.session.reader.run(
            calls.roster(site.session.engine.register.keys, limit=QUEUES)
        ).queues
        try:
            findings.extend(checks.everything(site.session, names))
        except AtomqError as error:
            findings.append(Finding("connection", "fail", str(error), advice_for(error)))
    nodes = {finding.node for finding in findings or ()} - {""}
    if findings is not None and len(nodes) < 2:
        findings = [replace(finding, node="") for finding in findings]
    return site.page(request, "doctor.html", title="Doctor", findings=findings)


def metrics(site: Site, request: Request) -> Response:
    """What `atomq metrics` says, for Prometheus."""
    try:
        registry = site.registry
        from prometheus_client.exposition import choose_encoder
    except ImportError as error:
        raise HTTPException(404, str(error)) from error
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": kind})
