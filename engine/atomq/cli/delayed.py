"""`atomq delayed`: what waits for its time."""

from __future__ import annotations

from typing import Annotated

import typer

from atomq.cli.discovery import One
from atomq.cli.help import group
from atomq.cli.inspecting import spread
from atomq.cli.look import Body, Limit, PartName, peek
from atomq.cli.output import plural
from atomq.cli.session import Session, command, names_from

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
) -> None:
    """List delayed messages, the next one due first within a priority."""
    peek(session, queue, part=PartName.DELAYED, limit=limit, offset=offset, body=body)


@command(app, "cancel")
def cancel(session: Session, queue: One, ids: Ids) -> int:
    """Cancel delayed messages: they are gone for good. Exit code 1 if some were not there.

    `atomq delayed list Q --json | jq -r '.[].id' | atomq delayed cancel Q -`
    """
    from atomq import calls, flows
    from atomq.calls import Verdict

    parts = spread(session, queue)
    wanted = names_from(ids, what="ids")
    verdicts: list[Verdict] = []
    with session.out.progress("cancelling", len(wanted)) as report:
        for batch in flows.batches(wanted):
            found = [session.engine.run(calls.cancel(keys, batch)) for keys in parts]
            each = zip(*found, strict=True)  # the verdicts of all partitions
            verdicts += [Verdict.DONE if Verdict.DONE in one else one[0] for one in each]
            report(len(verdicts))
    done = verdicts.count(Verdict.DONE)
    left = {
        name: "not delayed"
        for name, verdict in zip(wanted, verdicts, strict=True)
        if verdict is not Verdict.DONE
    }
    return session.report(queue, f"cancelled {plural(done, 'message')}", done, left)
