"""`atomq peek` and `atomq unacked`: look at messages without touching them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.discovery import Names, One, discover
from atomq.cli.inspecting import inspect_all, over, spread
from atomq.cli.output import number
from atomq.cli.session import Session, Usage, command

Limit = Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")]
Body = Annotated[bool, typer.Option("--body", help="Headers and bodies too.")]

if TYPE_CHECKING:
    from atomq.calls import Part


class PartName(StrEnum):
    """The parts of a queue."""

    READY = "ready"
    DELAYED = "delayed"
    UNACKED = "unacked"
    DEAD = "dead"


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    for each in (peek, unacked):
        command(root, each.__name__, tables=True)(each)


def peek(
    session: Session,
    queue: One,
    *,
    part: Annotated[
        PartName, typer.Option(metavar="PART", help="ready, delayed, unacked or dead.")
    ] = PartName.READY,
    limit: Limit = 20,
    offset: Annotated[
        int, typer.Option(metavar="N", min=0, help="Pass over so many (not for dead letters).")
    ] = 0,
    body: Body = False,
) -> int:
    """Look at messages in the order they would be handed out; changes nothing.

    Task names are read from Celery's headers. A body is decoded where it is JSON or text, and shown
    in base64 otherwise; nothing is unpickled. What cannot be decoded is shown as it lies there.
    """
    from atomq import calls
    from atomq.cli import messages

    if offset and part is PartName.DEAD:
        raise Usage("--offset is not for dead letters: see atomq dead list --after")
    name: Part = part.value
    parts = spread(session, queue)
    states, failed = over(session, parts, lambda keys: session.reader.run(calls.inspect(keys)))
    found: list[dict[str, Any]] = []
    for keys, one in states.items():
        # One partition behind the other: what is passed over may be all of the first ones.
        count = getattr(one, name)
        some = messages.peeked(session, keys, name, limit=limit - len(found), offset=offset)
        found += [messages.row(keys, name, each, whole=body) for each in some]
        offset = max(0, offset - count)
    now_ms = max(state.now_ms for state in states.values())
    if part is PartName.UNACKED:
        messages.name_holders(session, found)
    if session.as_json:
        session.out.rows(found)
        return failed
    if body:
        for row in found:
            messages.show_whole(session, name, row, now_ms)
    elif found:
        messages.show(session, name, found, now_ms)
    total = sum(getattr(state, name) for state in states.values())
    tell_of_rest(session, queue, name, len(found), total)
    return failed


def tell_of_rest(session: Session, queue: str, part: str, shown: int, total: int) -> None:
    """Say on stderr that there is nothing, or that there is more."""
    if not total:
        session.out.note(f"{queue} has no {part} messages")
    elif shown < total:
        session.out.note(f"{number(shown)} of {number(total)} {part}; --limit shows more")


def unacked(session: Session, names: Names = None, *, limit: Limit = 100) -> int:
    """Show what is held: where, for how long, until when, and how often it was delivered.

    A lease in the past has expired: the next claim hands the message out again. The holder is named
    by its host and pid, or, where the register does not know it any more, by the front of its
    receipts. --limit is per queue.
    """
    from atomq.cli import messages

    states, failed = inspect_all(session, names or discover(session))
    rows = []
    with session.out.progress("reading", sum(min(limit, s.unacked) for s in states)) as report:
        for state in states:
            keys = session.keys(state.name)
            for each in messages.peeked(
                session, keys, "unacked", limit=limit if state.unacked else 0
            ):
                rows.append(messages.row(keys, "unacked", each))
                report(len(rows))
    messages.name_holders(session, rows)
    if session.as_json:
        session.out.rows(rows)
        return failed
    if rows:
        messages.show(session, "unacked", rows, max(state.now_ms for state in states))
    total = sum(state.unacked for state in states)
    if len(rows) < total:
        session.out.note(f"{number(len(rows))} of {number(total)}; --limit shows more")
    elif not rows and not failed:
        session.out.note("nothing is held")
    return failed
