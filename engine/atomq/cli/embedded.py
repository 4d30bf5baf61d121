"""`atomq embedded`: the server behind `embedded:///directory`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.help import group
from atomq.cli.session import Exit, Session, command

if TYPE_CHECKING:
    from atomq.embedded import EmbeddedServer

app = group(
    "The server behind embedded:///DIR: a real Valkey or Redis on a unix socket, started by "
    "the first process that needs it, shared by all that name its directory, running until it "
    "is stopped."
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Its directory.")]


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(app, name="embedded")


@command(app, "start", server=False)
def start(session: Session, directory: Directory) -> int:
    """Start it, unless it runs. Programs that use embedded:///DIR, and atomq put, do so too."""
    from atomq import embedded

    server = embedded.start(directory)
    how = "started" if server.started else "was running already"
    return _report(session, directory, server, how, started=server.started)


@command(app, "status", server=False)
def status(session: Session, directory: Directory) -> int:
    """Say whether it runs: exit code 1 if not."""
    from atomq import embedded

    server = embedded.status(directory)
    _report(session, directory, server, "runs" if server else "does not run")
    return Exit.OK if server else Exit.NOT_ALL


@command(app, "stop", server=False)
def stop(session: Session, directory: Directory) -> int:
    """Stop it gracefully; its data stays. No error if none was running."""
    from atomq import embedded

    stopped = embedded.stop(directory)
    how = "stopped, its data is kept" if stopped else "was not running"
    return _report(session, directory, None, how, stopped=stopped)


def _report(
    session: Session, directory: Path, server: EmbeddedServer | None, how: str, **more: bool
) -> int:
    from atomq import embedded

    home = server.directory if server else embedded.resolved(directory)
    row: dict[str, Any] = {"directory": str(home), "running": server is not None, **more}
    if server is not None:
        row |= {"url": f"embedded://{home}", "pid": server.pid, "socket": str(server.socket)}
    if session.as_json:
        session.out.rows([row])
        return Exit.OK
    session.out.line(f"{home}: {how}" + (f" (pid {server.pid})" if server else ""))
    if server is not None:
        session.out.line(f"  url     {row['url']}")
        session.out.line(f"  socket  {row['socket']}")
    return Exit.OK
