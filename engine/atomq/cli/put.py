"""`atomq put`: publish messages."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq import arguments
from atomq.cli.discovery import One
from atomq.cli.output import number, plural
from atomq.cli.session import Exit, Session, Usage, command
from atomq.cli.times import milliseconds, moment
from atomq.errors import AtomqError, InvalidArgument, NotDurable, ServerError

if TYPE_CHECKING:
    from atomq.calls import Outgoing
    from atomq.durability import Durability

_AT_ONCE = 1000


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "put", creates=True)(put)


def put(
    session: Session,
    queue: One,
    body: Annotated[
        str | None,
        typer.Argument(metavar="BODY|-", help="JSON; - reads it from stdin.", show_default=False),
    ] = None,
    *,
    lines: Annotated[
        bool, typer.Option("--lines", help="Stdin holds one message a line; no BODY.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="BODY is text as it stands, not JSON.")
    ] = False,
    delay: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Hand it out in so long: 90, 1.5s, 10m, 2h, 7d."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Hand it out then: 2030-01-31T12:00+01:00 (without an offset: the time of this "
            "machine's zone), or seconds since 1970.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(metavar="0-9", min=0, max=9, help="0 goes first.")] = 0,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Its id; nothing is put while the same id is remembered. With it the command can "
            "be repeated when the server was away.",
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="To dead letters if no consumer took it in so long: 90, 10m, 2h."
        ),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="What is confirmed before it counts as put: memory, replicas=N, fsync. Exit code "
            "1 if it was put and not confirmed in time.",
        ),
    ] = None,
    tracked: Annotated[
        bool, typer.Option("--tracked", help="Note where it is, for `atomq get`, wherever it goes.")
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A header, its value JSON or else text. Repeatable."
        ),
    ] = None,
) -> int:
    """Put a message into a queue, or many from stdin.

    `atomq put emails '{"to": "ann"}' --delay 10m`

    `jq -c '.[]' all.json | atomq put emails --lines`

    With --lines messages go in batches of at most 1,000, each whole or not at all; the first line
    that cannot be put ends it, and says how many went before. Exit code 1 if ids were known.
    """
    if lines == (body is not None):
        raise Usage("give a BODY (- for stdin), or --lines")
    if delay is not None and at is not None:
        raise Usage("--delay and --at are two answers to one question")
    if lines and id_:
        raise Usage("--id is for one message, --lines for many")
    settings = {
        "delay_ms": milliseconds("--delay", delay),
        "at_ms": moment("--at", at),
        "ttl_ms": milliseconds("--ttl", ttl),
    }
    if ttl is not None and settings["ttl_ms"] <= settings["delay_ms"]:
        raise Usage(
            "--ttl must be more than 0, and more than --delay, or nothing would ever take the "
            "message; without --ttl it never expires"
        )
    if id_ is not None:
        arguments.text("--id", id_, 256, least=1)
    confirmed_by = session.engine.durability(durability)
    writing = _Writing(session, queue, priority, _headers(header), settings, id_, confirmed_by)
    writing.tracked = tracked
    try:
        if lines:
            return _put_lines(session, writing, text=text)
        given = sys.stdin.read() if body == "-" else body or ""
    except UnicodeDecodeError as error:
        raise Usage(f"stdin is not text: {error}") from None
    outgoing = writing.outgoing(given if text else _parsed(given, "BODY"))
    published = writing.publish([outgoing])
    if session.as_json:
        session.out.rows([writing.row(published, 1 - published) | {"id": outgoing.id}])
    elif published:
        session.out.line(f"{queue}: put {outgoing.id}")
    else:
        session.out.error(f"{outgoing.id} is known in {queue}: nothing was put")
    return Exit.OK if published else Exit.NOT_ALL


class _Writing:
    """Makes messages of one queue, all with the same settings, and publishes them."""

    def __init__(
        self,
        session: Session,
        queue: str,
        priority: int,
        headers: dict[str, Any],
        settings: dict[str, int],
        message_id: str | None,
        durability: Durability | None,
    ) -> None:
        from atomq.ids import Ids
        from atomq.message import Writer

        self.engine = session.engine
        self.keys = session.keys(queue)
        self.ids = Ids()
        self._writer = Writer(queue)
        self._priority, self._headers = priority, headers
        self._settings, self._id = settings, message_id
        self.tracked = False
        self._durability = durability

    def outgoing(self, body: Any) -> Outgoing:
        from atomq.calls import Outgoing
        from atomq.message import tracked

        name = self._id or self.ids.next()
        text = self._writer.write(body, name, priority=self._priority, headers=self._headers)
        step = self.keys.step_of(self._priority)
        settings: dict[str, Any] = {**self._settings, "dedup": self._id is not None}
        if self.tracked:
            return Outgoing(tracked(text, name), name, step, **settings, tracked=True)
        return Outgoing(text, name, step, **settings)

    def of_line(self, number: int, body: Any) -> Outgoing:
        """A message of a line of stdin. Raises `Usage`, which names it."""
        try:
            return self.outgoing(body)
        except InvalidArgument as error:
            raise Usage(f"line {number}: {error}") from error

    def publish(self, messages: list[Outgoing]) -> int:
        """Publish; how many were put, the others' ids were known."""
        from atomq import flows

        put = self.engine.run(
            flows.publish_all(
                self.keys,
                messages,
                producers=self.engine.producers,
                options=self.engine.options,
                durability=self._durability,
            )
        )
        return sum(put)

    def row(self, published: int, known: int) -> dict[str, Any]:
        return {"queue": self.keys.name, "published": published, "known": known}


def _put_lines(session: Session, writing: _Writing, *, text: bool) -> int:
    began, published = time.monotonic(), 0
    try:
        with session.out.progress("putting") as report:
            numbered = _numbered(text=text)
            while batch := list(itertools.islice(numbered, _AT_ONCE)):
                published += writing.publish([writing.of_line(*line) for line in batch])
                report(published)
    except AtomqError as error:
        if isinstance(error, ServerError | NotDurable):
            published += len(error.ids)  # of those that were to be put last
            error.ids = []
        session.out.note(f"{plural(published, 'message')} were put before")
        raise
    if session.as_json:
        session.out.rows([writing.row(published, 0)])
    else:
        seconds = max(0.001, time.monotonic() - began)
        rate = f" ({number(round(published / seconds))}/s)" if published >= _AT_ONCE else ""
        session.out.line(f"{writing.keys.name}: put {plural(published, 'message')}{rate}")
    return Exit.OK


def _numbered(*, text: bool) -> Iterator[tuple[int, Any]]:
    for line_number, ended in enumerate(sys.stdin, 1):
        if line := ended.rstrip("\r\n"):
            yield line_number, line if text else _parsed(line, f"line {line_number}")


# ── what was typed ────────────────────────────────────────────────────────────────────────────


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise Usage(
            f"{what} is not JSON ({error}): quote text as '\"text\"', or give --text"
        ) from None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _headers(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Usage(f"--header takes NAME=VALUE, got {pair!r}")
        try:
            found[name] = json.loads(value, parse_constant=_refused)
        except (ValueError, RecursionError):
            found[name] = value
    return found
