"""`atomq delayed`: what waits for its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from atomq.cli.discovery import One
from atomq.cli.help import group
from atomq.cli.inspecting import over, spread
from atomq.cli.look import Body, Limit, PartName, peek
from atomq.cli.output import plural
from atomq.cli.session import Session, command, names_from

if TYPE_CHECKING:
    from atomq.calls import Verdict
    from atomq.keys import QueueKeys

app = group("What waits for its time: list it, cancel it.")

Ids = Annotated[
    list[str], typer.Argument(metavar="ID", help="Message ids; - reads them from stdin.")
]


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(app, name="delayed")


@command(app, "list", tables=True)
def list_(
    session: Session,
    queue: One,
    *,
    limit: Limit = 20,
    offset: Annotated[int, typer.Option(metavar="N", min=0, help="Pass over so many.")] = 0,
    body: Body = False,
) -> int:
    """List delayed messages, the next one due first within a priority."""
    return peek(session, queue, part=PartName.DELAYED, limit=limit, offset=offset, body=body)


@command(app, "cancel")
def cancel(session: Session, queue: One, ids: Ids) -> int:
    """Cancel delayed messages: they are gone for good. Exit code 1 if some were not there.

    `atomq delayed list Q --json | jq -r '.[].id' | atomq delayed cancel Q -`
    """
    from atomq import calls
    from atomq.flows import batches

    def cancelled(keys: QueueKeys, some: Sequence[str]) -> list[Verdict]:
        return session.engine.run(calls.cancel(keys, some))

    wanted = names_from(ids, what="ids")
    verdicts: list[Verdict] = []
    failed = 0
    with session.out.progress("cancelling", len(wanted)) as report:
        for batch in batches(wanted):
            some, away = in_any(session, queue, batch, cancelled)
            verdicts, failed = verdicts + some, max(failed, away)
            report(len(verdicts))
    return steered(session, queue, wanted, verdicts, "cancelled", "not delayed", failed)


def in_any(
    session: Session,
    queue: str,
    ids: Sequence[str],
    verb: Callable[[QueueKeys, Sequence[str]], list[Verdict]],
) -> tuple[list[Verdict], int]:
    """The verdict on each message, wherever it lies, and the exit code of what failed."""
    from atomq.calls import Verdict

    found, failed = over(session, spread(session, queue), lambda keys: verb(keys, ids))
    each = zip(*found.values(), strict=True)  # the verdicts of all partitions
    return [Verdict.DONE if Verdict.DONE in one else one[0] for one in each], failed


def steered(
    session: Session,
    queue: str,
    wanted: Sequence[str],
    verdicts: Sequence[Verdict],
    done_text: str,
    why: str,
    failed: int,
) -> int:
    """Print what became of messages; the exit code."""
    from atomq.calls import Verdict

    done = verdicts.count(Verdict.DONE)
    left = {n: why for n, v in zip(wanted, verdicts, strict=True) if v is not Verdict.DONE}
    reported = session.report(queue, f"{done_text} {plural(done, 'message')}", done, left)
    return failed or reported
