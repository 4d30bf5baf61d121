"""`atomq demo`: watch the engine do its job, and see at the end whether everything holds.

`stage.py` has the server and the worker processes and removes them whatever happens; `act.py`
plays; `ledger.py` counts and judges; `worker.py` is what a worker runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from atomq.cli.session import Exit, Session, Usage
from atomq.cli.session import command as command_of


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    command_of(app, "demo", server=False)(demo)


def demo(
    session: Session,
    seconds: Annotated[float, typer.Option(min=0, max=600, help="About how long it takes.")] = 8,
    lease: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds a lease lasts.")] = 3,
    files: Annotated[int | None, typer.Option(min=50, help="Take only so many files.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Play there, in queues that are removed again."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="PATH", help="Keep the embedded server's data there."),
    ] = None,
) -> int:
    """Watch it work, on four worker processes, of which one is killed.

    Each file of Python's standard library is a message, of which the workers compute the SHA-256.
    Without --url an embedded server is started. At the end a ledger says whether every promise was
    kept, and so does the exit code.
    """
    from atomq.address import Address
    from atomq.cli.demo.act import Act, Show
    from atomq.cli.demo.stage import Stage

    if sys.platform == "win32":
        raise Usage("the demo needs Linux or macOS: it kills processes with signals")
    if address is not None and directory is not None:
        raise Usage("give --url or --dir, not both")
    if address is not None and Address.parse(address).kind == "memory":
        raise Usage("memory:// is one process's own; the workers of the demo are others")
    console = session.out.errors if session.as_json else session.out.console
    with Stage(address, directory) as stage:
        with Show(console) as show:
            ledger = Act(stage, show, seconds, lease, files).play()
        if session.as_json:
            session.out.document(ledger.facts())
        else:
            session.out.show(ledger.table(console))
            if directory is not None:
                session.out.line(f"look into it: atomq --url '{stage.url}' queues")
    return Exit.NOT_ALL if ledger.faults else Exit.OK
