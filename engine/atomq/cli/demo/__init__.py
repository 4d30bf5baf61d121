"""`atomq demo`: watch the engine do its job, and see at the end whether everything holds.

The demo is a row of acts on one stage. An act is a function `play(stage, show, settings)` that
answers an `Outcome`; `_acts` lists them. The stage (`stage.py`) has the server and the processes
and removes them whatever happens, the show (`view.py`) is what people watch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomq.cli.session import Exit, Session, Usage
from atomq.cli.session import command as command_of

if TYPE_CHECKING:
    from atomq.cli.demo.outcome import Outcome
    from atomq.cli.demo.stage import Stage
    from atomq.cli.demo.view import Show

FEWEST = 50  # fewer files or tasks than this are done before the demo has told its story


@dataclass(frozen=True)
class DemoSettings:
    """What the command line says about the demo."""

    workers: int = 4
    seconds: float = 12
    """How long the work should last, about; 0: as fast as it goes."""
    lease: float = 3
    files: int | None = None
    max_deliveries: int = 4
    tasks: int = 2000


class ActName(StrEnum):
    """What there is to see."""

    LIBRARY = "library"
    CELERY = "celery"


@dataclass(frozen=True)
class Act:
    """One act."""

    play: Callable[[Stage, Show, DemoSettings], Outcome]
    why_not: Callable[[str | None], str] = lambda _url: ""
    """Why it cannot be played on this server (None: an embedded one); "" if it can."""


def _acts() -> dict[ActName, Act]:
    from atomq.cli.demo import celery_app, library

    return {
        ActName.LIBRARY: Act(library.play),
        ActName.CELERY: Act(celery_app.play, celery_app.why_not),
    }


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    command_of(app, "demo", server=False, rich_help_panel="Try it")(demo)


def demo(
    session: Session,
    act: Annotated[
        ActName | None, typer.Option(help="Play this act only.", show_default="all")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=2, max=8, help="Worker processes; one of them is killed. (library)")
    ] = 4,
    seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=600,
            help="How long the work should last, about; 0: as fast as it goes. (library)",
        ),
    ] = 12,
    lease: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds a lease lasts unless it is renewed.")
    ] = 3,
    files: Annotated[
        int | None,
        typer.Option(min=FEWEST, help="Take only so many files. (library)", show_default="all"),
    ] = None,
    tasks: Annotated[
        int, typer.Option(min=4 * FEWEST, max=1_000_000, help="How many small tasks. (celery)")
    ] = 2000,
    max_deliveries: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="How often a message is handed out before it goes to dead letters. With 1, what "
            "the killed worker held goes there, and the demo fails.",
        ),
    ] = 4,
    address: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Play on this server, in queues of its own that are removed again. "
            "[default: an embedded server in a new temporary directory]",
            show_default=False,
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="PATH",
            help="Where the embedded server keeps its data, which stays.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep server data, queues and logs afterwards.")
    ] = False,
) -> int:
    """Watch it work, on real workers, of which some are killed.

    The first act, library: each file of Python's standard library is a message. Worker processes
    compute its SHA-256 and count its lines; half way one of them is killed with SIGKILL.

    The second act, celery: an unmodified Celery app with two workers, one of them killed; tasks
    with an ETA, and one that takes three times the visibility timeout.

    At the end of each a ledger says whether every promise was kept, and so does the exit code.
    """
    from atomq.address import Address
    from atomq.cli.demo import view
    from atomq.cli.demo.outcome import report
    from atomq.cli.demo.stage import Stage

    if sys.platform == "win32":
        raise Usage("the demo needs Linux or macOS: it kills processes with signals")
    if address is not None and directory is not None:
        raise Usage("give --url or --dir, not both")
    if address is not None and Address.parse(address).kind == "memory":
        raise Usage("memory:// is one process's own; the workers of the demo are others")
    settings = DemoSettings(workers, seconds, lease, files, max_deliveries, tasks)
    acts, left_out = _chosen(act, address)
    console = session.out.errors if session.as_json else session.out.console
    outcomes: list[Outcome] = []
    with Stage(address, directory, keep=keep) as stage:
        for name in acts:
            with view.Show(console) as show:
                outcome = acts[name].play(stage, show, settings)
            outcomes.append(outcome)
            if not session.as_json:
                session.out.show(view.ledger(outcome))
        server = stage.server
    if session.as_json:
        session.out.document(report(outcomes, server))
    else:
        for line in [*left_out, *stage.kept()]:
            session.out.line(line)
    return Exit.OK if all(outcome.ok for outcome in outcomes) else Exit.NOT_ALL


def _chosen(only: ActName | None, url: str | None) -> tuple[dict[ActName, Act], list[str]]:
    """The acts that are played, and why others are not."""
    acts = {name: act for name, act in _acts().items() if only in (None, name)}
    reasons = {name: reason for name, act in acts.items() if (reason := act.why_not(url))}
    if reasons.keys() == acts.keys():
        raise Usage("; ".join(reasons.values()))
    left_out = [f"the {name} act was left out: {reason}" for name, reason in reasons.items()]
    return {name: act for name, act in acts.items() if name not in reasons}, left_out
