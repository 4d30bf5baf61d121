"""`atomq doctor`: is this server fit to hold queues, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.discovery import completed
from atomq.cli.output import Column, clean, plural
from atomq.cli.session import Exit, Session, command, exit_of
from atomq.errors import AtomqError

if TYPE_CHECKING:
    from atomq.cli.findings import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUEUE",
        help="Queues to check; all that are found, if none is named.",
        autocompletion=completed,
    ),
]


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "doctor")(doctor)


def doctor(
    session: Session,
    names: Names = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
) -> int:
    """Check the server: memory, persistence, timeouts, rights, scripts, queues.

    Each line says **ok**, **warn** or **fail**, what was found, and what to do about it. A check
    that this user may not make says **skip** and what right it would need; to judge what workers
    may do, run it as their user. Nothing is changed, but for one scratch key that is deleted again
    and one script that is loaded if it may be. Exit code 1 if a line says fail.
    """
    from atomq.cli import checks
    from atomq.cli.findings import Finding, advice_for

    findings: list[Finding] = []
    stopped = 0
    try:
        with session.out.progress("checking") as report:
            for finding in checks.everything(session, names):
                findings.append(finding)
                report(len(findings))
    except AtomqError as error:
        stopped = exit_of(error)
        findings.append(Finding("connection", "fail", str(error), advice_for(error)))
    if session.as_json:
        session.out.rows([finding.row() for finding in findings])
    else:
        _show(session, findings)
    bad = {"fail", "warn"} if strict else {"fail"}
    return stopped or (Exit.NOT_ALL if any(f.status in bad for f in findings) else Exit.OK)


def _show(session: Session, findings: Sequence[Finding]) -> None:
    from rich.text import Text

    several = len({finding.node for finding in findings} - {""}) > 1
    columns = [Column(""), Column("", style="bold"), Column("", folds=True)]
    rows: list[Sequence[Any]] = []
    for finding in findings:
        found = Text(clean(finding.found))
        if several and finding.node:
            found = Text(f"{finding.node}: ", style="dim") + found
        if finding.advice:
            found += Text("\n→ " + clean(finding.advice), style=_STYLES[finding.status].split()[-1])
        rows.append([Text(finding.status, style=_STYLES[finding.status]), finding.check, found])
    session.out.line(Text(f"{session.engine.address}", style="dim"))
    session.out.line("")
    session.out.table(columns, rows)
    counts = {status: sum(f.status == status for f in findings) for status in _STYLES}
    text = [plural(n, "check") + f" {word}" for word, n in counts.items() if n and word == "ok"]
    text += [f"{n} {word}" for word, n in counts.items() if n and word != "ok"]
    session.out.line("")
    session.out.line(", ".join(text))
