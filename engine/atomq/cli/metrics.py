"""`atomq metrics`: what Prometheus scrapes, printed once or served."""

from __future__ import annotations

import signal
import socket
import socketserver
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from wsgiref import simple_server

import typer

from atomq.cli.session import Exit, Session, Usage, command

if TYPE_CHECKING:
    from atomq.metrics import AtomqCollector


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "metrics")(metrics)


def metrics(
    session: Session,
    *,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve /metrics, and /backlog/QUEUE as JSON, until Ctrl-C. All can read them "
            "that reach that address: there is no password.",
        ),
    ] = None,
) -> int:
    """Print the metrics of all queues for Prometheus, or serve them with --listen.

    /backlog/QUEUE answers backlog, what a worker could claim now, and busy, the backlog and what is
    held. Scale workers on busy: the backlog alone is 0 while the last message is worked on.

    What the register knows is read, and no key is searched for: 200 queues are two server calls.
    While the server is away, `atomq_up` is 0 and nothing else is there. Needs atomq[metrics].
    """
    from atomq.metrics import AtomqCollector  # says what is missing

    from prometheus_client import CollectorRegistry, generate_latest  # isort: skip

    collector = AtomqCollector(session.reader)
    if listen is not None:
        return _serve(session, collector, *_place(listen))
    registry = CollectorRegistry(auto_describe=False)
    collector.register(registry)
    if session.as_json:
        found = list(registry.collect())
        rows = [
            {"name": each.name, "labels": each.labels, "value": float(each.value)}
            for metric in found
            for each in metric.samples
        ]
        session.out.rows(rows)
        is_up = any(row["name"] == "atomq_up" and row["value"] for row in rows)
    else:
        text = generate_latest(registry).decode()
        sys.stdout.write(text)
        is_up = "\natomq_up 1.0\n" in text
    return Exit.OK if is_up else Exit.UNREACHABLE


def _place(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Usage("--listen takes HOST:PORT, as in --listen 127.0.0.1:9464")
    return host.strip("[]"), int(port)


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """A thread a request: one that is slow costs no other its answer."""

    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    timeout = 30  # seconds for a client that says nothing

    def log_message(self, *_: Any) -> None:
        """A scrape every few seconds is no news."""


def _end(*_: object) -> NoReturn:
    """End as by Ctrl-C, also where SIGINT is ignored: a shell's script starts `… &` so."""
    raise KeyboardInterrupt


def _serve(session: Session, collector: AtomqCollector, host: str, port: int) -> int:
    from atomq.metrics import wsgi_app

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Server", (_Server,), {"address_family": family})
    app: Any = wsgi_app(collector)
    try:
        server: Any = simple_server.make_server(host, port, app, kind, _Handler)
    except OSError as error:
        raise Usage(f"--listen {host}:{port}: {error.strerror or error}") from None
    signal.signal(signal.SIGTERM, _end)
    shown = f"[{host}]" if ":" in host else host or "0.0.0.0"  # noqa: S104 # only said
    with server:
        where = f"http://{shown}:{server.server_port}/metrics"
        session.out.note(f"the metrics of {session.engine.address} are at {where}")
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
    return Exit.OK
