"""`atomq dead`: what will not be delivered any more, and why; back to ready, or away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.look import Limit
from atomq.cli.output import number, plural
from atomq.cli.queues import One, Yes
from atomq.cli.session import Exit, Session, Usage, command, exactly_one, names_from

if TYPE_CHECKING:
    from atomq.calls import Peeked
    from atomq.keys import QueueKeys

app = typer.Typer(
    no_args_is_help=True,
    help="What was rejected, could not be decoded or was delivered too often: look at it, put it "
    "back to ready, throw it away.",
)

_TOGETHER = 100

Ids = Annotated[list[str], typer.Argument(metavar="DEAD-ID", help="As `dead list` shows them.")]
MaybeIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="DEAD-ID", help="As `dead list` shows them; - reads them from stdin."),
]
Reason = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Only those that died of this, as `max_deliveries`."),
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(
        app,
        name="dead",
        short_help="Dead letters: list, show, put back to ready, throw away.",
        rich_help_panel="Move",
    )


@command(app, "list")
def list_(
    session: Session,
    queue: One,
    *,
    reason: Reason = None,
    limit: Limit = 20,
    after: Annotated[
        str, typer.Option(metavar="DEAD-ID", help="Only what died after this one.")
    ] = "",
) -> None:
    """List dead letters, the longest dead first, with the reason of each."""
    from atomq import calls
    from atomq.cli import messages

    keys = session.keys(queue)
    state = session.reader.run(calls.inspect(keys))
    rows: list[dict[str, Any]] = []
    with session.out.progress("reading", state.dead) as report:
        asked = limit if reason is None else state.dead
        for seen, letter in enumerate(
            messages.peeked(session, keys, "dead", limit=asked, after=_id(after) if after else "")
        ):
            report(seen)
            if reason in (None, letter.reason):
                rows.append(messages.row(keys, "dead", letter))
            if len(rows) == limit:
                break
    if session.as_json:
        session.out.rows(rows)
        return
    if rows:
        messages.show(session, "dead", rows, state.now_ms)
    if not state.dead:
        session.out.note(f"{queue} has no dead letters")
    elif len(rows) < state.dead:
        more = f"; go on with --after {rows[-1]['dead_id']}" if len(rows) == limit else ""
        session.out.note(f"{number(len(rows))} of {plural(state.dead, 'dead letter')}{more}")


@command(app, "show")
def show(session: Session, queue: One, ids: Ids) -> int:
    """Show dead letters whole: reason, detail, headers and body."""
    from atomq import calls
    from atomq.cli import messages

    keys = session.keys(queue)
    now = session.reader.run(calls.inspect(keys)).now_ms
    rows, missing = [], []
    for name in names_from(ids, what="ids"):
        letter = _letter(session, keys, _id(name))
        if letter is None:
            missing.append(name)
        else:
            rows.append(messages.row(keys, "dead", letter, whole=True))
    if session.as_json:
        session.out.rows(rows)
    for row in rows if not session.as_json else ():
        messages.show_whole(session, "dead", row, now)
    for name in missing:
        session.out.error(f"{name}: no such dead letter in {queue}")
    return Exit.NOT_ALL if missing else Exit.OK


@command(app, "redrive")
def redrive(
    session: Session, queue: One, ids: MaybeIds = None, *, all_: All = False, reason: Reason = None
) -> int:
    """Put dead letters back to ready, their deliveries forgotten.

    Name them, or give --all or --reason: those that are dead now, the longest dead first. What
    cannot be decoded stays. A full server refuses, and what was moved until then stays moved:
    repeat it. Exit code 1 if some stayed.
    """
    exactly_one(ids=bool(ids), all=all_ and reason is None, reason=reason is not None)
    keys = session.keys(queue)
    if ids:
        done, left = _redrive_named(session, keys, names_from(ids, what="ids"))
    else:
        done, left = _redrive_many(session, keys, reason or "")
    return session.report(queue, f"put {plural(done, 'message')} back to ready", done, left)


def _redrive_named(
    session: Session, keys: QueueKeys, names: Sequence[str]
) -> tuple[int, dict[str, str]]:
    from atomq import calls
    from atomq.errors import AtomqError

    done, left = 0, {}
    names = [_id(name) for name in names]
    with session.out.progress("putting back", len(names)) as report:
        for i in range(0, len(names), _TOGETHER):
            batch = names[i : i + _TOGETHER]
            looks = [calls.redrive(keys, [name], look=True) for name in batch]
            found = {}
            for name, looked in zip(batch, session.engine.run_all(looks), strict=True):
                if isinstance(looked, AtomqError):
                    raise looked
                if looked.found:
                    found[name] = looked.found[0][1]
                else:
                    left[name] = (
                        "cannot be decoded, stays" if looked.seen else "no such dead letter"
                    )
            moves = [calls.redrive(keys, [name], messages=[found[name]]) for name in found]
            for name, moved in zip(found, session.engine.run_all(moves), strict=True):
                if isinstance(moved, AtomqError):
                    raise moved
                if moved.count:
                    done += 1
                else:  # another one was faster
                    left[name] = "no such dead letter"
            report(i + len(batch))
    return done, left


def _redrive_many(session: Session, keys: QueueKeys, reason: str) -> tuple[int, dict[str, str]]:
    from atomq import calls, flows

    total = session.reader.run(calls.inspect(keys)).dead
    with session.out.progress("putting back", None if reason else total) as report:
        done = session.engine.run(flows.redrive_all(keys, reason=reason, report=report))
    if reason or done >= total:
        return done, {}
    return done, {plural(total - done, "dead letter"): "cannot be decoded, stay"}


@command(app, "purge")
def purge(
    session: Session,
    queue: One,
    ids: MaybeIds = None,
    *,
    all_: All = False,
    reason: Reason = None,
    yes: Yes = False,
) -> int:
    """Throw dead letters away for good. Name them, or give --all or --reason.

    Exit code 1 if some were not there.
    """
    from atomq import calls

    exactly_one(ids=bool(ids), all=all_ and reason is None, reason=reason is not None)
    keys = session.keys(queue)
    if ids:
        names = [_id(name) for name in names_from(ids, what="ids")]
        what = plural(len(names), "dead letter")
    else:
        total = session.reader.run(calls.inspect(keys)).dead
        names = _dead_of(session, keys, reason, total) if reason else []
        what = plural(len(names) if reason else total, "dead letter")
    if not session.agreed(f"Throw away {what} of {queue}?", yes=yes):
        return Exit.NOT_ALL
    if all_:
        done = session.engine.run(calls.purge(keys, dead=True)).dead
        return session.report(queue, f"threw away {plural(done, 'dead letter')}", done, {})
    done = 0
    with session.out.progress("throwing away", len(names)) as report:
        for i in range(0, len(names), calls.MOST):
            batch = names[i : i + calls.MOST]
            done += session.engine.run(calls.purge(keys, dead_ids=batch)).dead
            report(done)
    left = {plural(len(names) - done, "dead letter"): "not there"} if done < len(names) else {}
    return session.report(queue, f"threw away {plural(done, 'dead letter')}", done, left)


# ── ids ───────────────────────────────────────────────────────────────────────────────────────


def _id(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", text):
        raise Usage(f"{text!r} is no id of a dead letter: one looks like 1790000000000-0")
    return text


def _letter(session: Session, keys: QueueKeys, name: str) -> Peeked | None:
    """One dead letter: the first behind the id before its own."""
    from atomq import calls

    ms, seq = map(int, name.split("-"))
    before = f"{ms}-{seq - 1}" if seq else f"{max(0, ms - 1)}-18446744073709551615"
    found = session.reader.run(calls.peek(keys, "dead", limit=1, after=before))
    return found[0] if found and found[0].name == name else None


def _dead_of(session: Session, keys: QueueKeys, reason: str, total: int) -> list[str]:
    from atomq.cli import messages

    names = []
    with session.out.progress("reading", total) as report:
        for seen, letter in enumerate(messages.peeked(session, keys, "dead", limit=total)):
            report(seen)
            if letter.reason == reason:
                names.append(letter.name)
    return names
