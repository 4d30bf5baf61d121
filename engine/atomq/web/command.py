"""`atomq web`: the page, by a server of its own."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from atomq.cli.session import Session, Usage, command
from atomq.errors import InvalidArgument


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "web")(web)


def web(
    session: Session,
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
    writable: Annotated[
        bool, typer.Option("--writable", help="Let the page pause, redrive, purge and cancel.")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Ask for a name and its password: a line NAME:PASSWORD for each user.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name it is asked for under, as behind a proxy. Can be given again.",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path", metavar="PATH", help="The path under which a proxy shows it: /queues."
        ),
    ] = "",
) -> int | None:
    """Show queues, messages, dead letters and workers on a web page.

    It only looks, unless --writable lets it act. It listens on this machine only, unless there is a
    --password-file. What it does is logged, with the name of the user.
    """
    from atomq.web import check_extra

    check_extra(("starlette", "jinja2", "uvicorn"))
    import uvicorn

    from atomq.web.app import guarded
    from atomq.web.guard import LOOPBACK
    from atomq.web.site import Site

    host, port = _place(listen)
    users = None if password_file is None else passwords(password_file)
    if users is None and not _is_loopback(host):
        raise Usage(f"to listen on {host}, where others can reach it, it needs a --password-file")
    if root_path and not root_path.startswith("/"):
        raise Usage(f"--root-path begins with a slash, as in /queues, got {root_path!r}")
    names = None if users is not None else LOOPBACK | set(allow_host or ())
    quiet = Session(session.url, session.settings, as_json=True)  # it shows no progress
    quiet.engine = session.engine  # what is wrong with the address is said now
    site = Site(quiet, writable=writable, owns_engine=False)
    app = guarded(site, hosts=names, users=users, prefix=root_path)
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        _say(session, f"http://{shown}:{port}{root_path.rstrip('/')}/", writable=writable)
        _log_to_stderr()
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run([listener])
    return None


def _say(session: Session, url: str, *, writable: bool) -> None:
    if session.as_json:
        session.out.document({"url": url, "writable": writable})
    else:
        may = "looks and acts" if writable else "only looks: --writable lets it act"
        session.out.line(f"{url} shows {session.engine.address}; it {may}; Ctrl-C ends it")
    sys.stdout.flush()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InvalidArgument(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _log_to_stderr() -> None:
    """What is done is worth a line, also where no logging is set up."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("atomq.web")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _place(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise Usage(f"--listen takes HOST:PORT, as in 127.0.0.1:8080, got {listen!r}")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def passwords(file: Path) -> dict[str, str]:
    """The passwords of a file by their names. Raises `InvalidArgument` if it is not made so."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for at, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, word = line.partition(":")
        if not (colon and name and word):
            raise InvalidArgument(f"{file}, line {at}: it is to be NAME:PASSWORD")
        found[name] = word
    if not found:
        raise InvalidArgument(f"{file} names no user: it needs a line NAME:PASSWORD for each")
    return found
