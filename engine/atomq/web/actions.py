"""What the page can do. Each is a POST, is asked about once more where it destroys or moves much,
and is logged: what was done to which queue, to which messages, and by which user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from atomq import calls, flows
from atomq.calls import QueueOverview, Verdict
from atomq.cli.dead import LAST, order
from atomq.cli.messages import PARTS, row
from atomq.cli.output import clean, plural
from atomq.errors import ServerUnavailable
from atomq.keys import QueueKeys
from atomq.web.numbers import known, spread
from atomq.web.site import Links, Site

log = logging.getLogger("atomq.web")

LARGEST = 256 * 1024  # bytes of a form: 1,000 ids of 256 characters


@dataclass(frozen=True)
class Form:
    """What was asked for."""

    queue: str
    names: Sequence[str]
    """Of single messages: ids, receipts, ids of dead letters."""
    reason: str
    parts: Sequence[str]
    is_all: bool
    is_confirmed: bool
    part: str
    """In which part of the queue the single messages lie."""
    page: str
    """Where it was asked for: `queues`, `dead`, or else the page of the queue."""

    @classmethod
    def of(cls, body: bytes) -> Form:
        """Read from a body. Raises `HTTPException` if it is no form."""
        try:
            said = parse_qs(body.decode(), max_num_fields=2 * calls.MOST)
        except ValueError:
            raise HTTPException(400, "This is no form of these pages.") from None
        parts, part = said.get("parts", []), said.get("part", [""])[0]
        if {*parts, part} - {*PARTS, ""}:
            raise HTTPException(400, f"A queue has the parts {', '.join(PARTS)}.")
        return cls(
            queue=said.get("queue", [""])[0],
            names=list(dict.fromkeys(said.get("key", [])))[: calls.MOST],
            reason=said.get("reason", [""])[0],
            parts=parts,
            is_all=bool(said.get("all")),
            is_confirmed=bool(said.get("confirmed")),
            part=part,
            page=said.get("page", [""])[0],
        )

    def fields(self) -> list[tuple[str, str]]:
        """It as fields of a form that says yes."""
        made = [("queue", self.queue), ("confirmed", "1")]
        made += [("part", self.part), ("page", self.page)]
        made += [("key", name) for name in self.names]
        made += [("parts", part) for part in self.parts]
        made += [("reason", self.reason)] if self.reason else []
        return made + ([("all", "1")] if self.is_all else [])

    def summary(self, done: int, left: int) -> str:
        """What became of which messages, for the log."""
        which = [*self.names[:5]] + (["…"] if len(self.names) > 5 else [])
        which += self.parts if not self.names else ()
        which += [f"reason {self.reason}"] if self.reason else []
        how_many = plural(done, "message") + (f", {left} not" if left else "")
        return f": {how_many} ({clean(', '.join(which) or 'all')})"

    def what(self, noun: str) -> str:
        """Which messages, in words."""
        if self.names:
            return plural(len(self.names), noun)
        return f"all {noun}s" + (f" that died of {self.reason}" if self.reason else "")


Done = tuple[int, int]
"""How many it was done to, and how many it could not be done to."""


def act(site: Site, request: Request, body: bytes) -> Response:
    """Do what a form asks for, or ask whether to, and lead back to the queue."""
    name = request.path_params["action"]
    action = ACTIONS.get(name)
    if action is None:
        raise HTTPException(404, f"Nothing here is called {name!r}.")
    if not site.may_write(request):
        raise HTTPException(403, "These pages only look: atomq web --writable lets them act.")
    form = Form.of(body)
    state = known(site, form.queue)
    if not any(getattr(form, name) for name in action.takes or ("queue",)):
        raise HTTPException(400, "Choose something first: nothing was done.")
    if action.asks is not None and not form.is_confirmed:
        question = action.asks(form, state)
        if question:
            return site.page(
                request,
                "confirm.html",
                title=state.name,
                action=name,
                question=question,
                button=action.button,
                fields=form.fields(),
                queue=state.name,
                part=form.part or action.part,
            )
    # Single messages are named by the partition that they lie in.
    parts = [site.session.keys(state.name)] if form.names else spread(site, state)
    found = [action.run(site, keys, form) for keys in parts]
    done, left = (sum(each) for each in zip(*found, strict=True))
    user = site.name_of(request)
    log.info(
        "%s: %s %r%s",
        clean(user),
        name,
        state.name,
        form.summary(done, left) if action.takes else "",
        extra={
            "user": user,
            "action": name,
            "queue": state.name,
            "done": done,
            "ids": list(form.names),
            "reason": form.reason,
            "parts": list(form.parts),
        },
    )
    if state.unanswered and not form.names:
        away = ", ".join(state.unanswered)
        raise ServerUnavailable(f"It is done to what answers of {state.name!r}, not to {away}.")
    where: dict[str, Any] = {"name": state.name, "part": form.part or action.part}
    path = "/queue"
    if form.page in _PAGES:
        path, where = _PAGES[form.page], {}
    back = Links(request)(path, **where, did=name, n=done, left=left or None)
    return RedirectResponse(back, 303)


_PAGES = {"queues": "/", "dead": "/dead"}


# ── each of them ──────────────────────────────────────────────────────────────────────────────


def _set_paused(site: Site, keys: QueueKeys, *, paused: bool) -> Done:
    site.session.engine.run(calls.pause(keys, paused=paused))
    return 0, 0


def _redrive(site: Site, keys: QueueKeys, form: Form) -> Done:
    engine = site.session.engine
    if form.names:
        done = engine.run(flows.redrive(keys, form.names))
        return done, len(form.names) - done
    return engine.run(flows.redrive_all(keys, reason=form.reason)), 0


def _discard(site: Site, keys: QueueKeys, form: Form) -> Done:
    engine, done, after = site.session.engine, 0, ""
    if form.names:
        done = engine.run(calls.purge(keys, dead_ids=form.names)).dead
        return done, len(form.names) - done
    if not form.reason:
        return engine.run(calls.purge(keys, dead=True)).dead, 0
    last = f"{engine.run(calls.inspect(keys)).now_ms}-{LAST}"  # not what dies meanwhile
    while page := engine.run(calls.peek(keys, "dead", limit=calls.MOST, after=after)):
        page = [each for each in page if order(each.name) <= order(last)]
        if names := [each.name for each in page if each.reason == form.reason]:
            done += engine.run(calls.purge(keys, dead_ids=names)).dead
        if not page:
            break
        after = page[-1].name
    return done, 0


def _purge(site: Site, keys: QueueKeys, form: Form) -> Done:
    chosen: Mapping[str, Any] = dict.fromkeys(form.parts, True)
    return sum(site.session.engine.run(calls.purge(keys, **chosen))), 0


def _cancel(site: Site, keys: QueueKeys, form: Form) -> Done:
    """Of what is held the receipts are chosen, and the ids are cancelled."""
    engine, ids = site.session.engine, list(form.names)
    if form.part == "unacked":
        held = engine.run(calls.peek(keys, "unacked", ids=form.names))
        ids = [found for each in held if (found := row(keys, "unacked", each)["id"])]
    done, _ = _count(engine.run(flows.cancel(keys, ids))) if ids else (0, 0)
    return done, len(form.names) - done


def _run_now(site: Site, keys: QueueKeys, form: Form) -> Done:
    return _count(site.session.engine.run(flows.run_now(keys, form.names)))


def _release(site: Site, keys: QueueKeys, form: Form) -> Done:
    items = [(receipt, "") for receipt in form.names]
    return _count(site.session.engine.run(flows.give_back(keys, items)))


def _count(verdicts: Sequence[Verdict]) -> Done:
    done = sum(verdict is Verdict.DONE for verdict in verdicts)
    return done, len(verdicts) - done


# ── what is asked first ───────────────────────────────────────────────────────────────────────


def _ask_of_dead(form: Form, state: QueueOverview, verb: str, then: str) -> str:
    what = form.what("dead letter")
    count = "" if form.names or form.reason else f" ({state.dead:,} now)"
    return f"{verb} {what} of {state.name}{count}? {then}"


def _ask_redrive(form: Form, state: QueueOverview) -> str:
    if form.names:
        return ""
    return _ask_of_dead(form, state, "Put", "They go back to ready, and consumers get them.")


def _ask_discard(form: Form, state: QueueOverview) -> str:
    return _ask_of_dead(form, state, "Throw away", "This cannot be undone.")


def _ask_purge(form: Form, state: QueueOverview) -> str:
    words = {"unacked": "held", "dead": "dead letters"}
    parts = [f"{getattr(state, part):,} {words.get(part, part)}" for part in form.parts]
    held = "unacked" in form.parts
    more = " The consumers of what is held work on, and their acks find nothing." if held else ""
    return f"Throw away {', '.join(parts)} of {state.name}? This cannot be undone.{more}"


def _ask_cancel(form: Form, state: QueueOverview) -> str:
    then = "They are gone for good."
    if form.part == "unacked":
        then = "Their holders hear of it within a second if they are tracked, else when they end."
    return f"Cancel {form.what('message')} of {state.name}? {then}"


def _ask_release(form: Form, state: QueueOverview) -> str:
    return (
        f"Give {form.what('held message')} of {state.name} back to ready? Another consumer gets "
        "what its holder may be working on, and the holder's ack finds nothing."
    )


@dataclass(frozen=True)
class Action:
    """One of the things the page can do."""

    run: Callable[[Site, QueueKeys, Form], Done]
    button: str
    part: str = ""
    """The part of the queue that is shown afterwards."""
    takes: Sequence[str] = ()
    """Of a form: what says which messages. One of these must be there."""
    asks: Callable[[Form, QueueOverview], str] | None = None
    """The question to be answered before it is done; "": none."""


_OF_DEAD = ("names", "reason", "is_all")
ACTIONS = {
    "pause": Action(lambda site, keys, _: _set_paused(site, keys, paused=True), "Pause"),
    "resume": Action(lambda site, keys, _: _set_paused(site, keys, paused=False), "Resume"),
    "redrive": Action(_redrive, "Redrive", "dead", _OF_DEAD, _ask_redrive),
    "discard": Action(_discard, "Throw away", "dead", _OF_DEAD, _ask_discard),
    "purge": Action(_purge, "Throw away", "", ("parts",), _ask_purge),
    "cancel": Action(_cancel, "Cancel", "delayed", ("names",), _ask_cancel),
    "run": Action(_run_now, "Run now", "delayed", ("names",)),
    "release": Action(_release, "Release", "unacked", ("names",), _ask_release),
}
