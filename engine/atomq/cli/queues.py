"""`atomq queues`: queues in numbers, once or with --watch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.discovery import Names, discover, enter, roster
from atomq.cli.inspecting import inspect_whole
from atomq.cli.output import Column, clean, duration, moment, number, table
from atomq.cli.session import Exit, Session, Usage, command
from atomq.errors import AtomqError
from atomq.message import Envelope

if TYPE_CHECKING:
    from rich.table import Table

    from atomq.calls import QueueState

_REDISCOVER_SECONDS = 10.0


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "queues", tables=True)(queues)


def queues(
    session: Session,
    names: Names = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look, with --watch.")
    ] = 1.0,
    scanning: Annotated[
        bool,
        typer.Option(
            "--scan",
            help="Look through the whole database for queues; the register has them then.",
        ),
    ] = False,
) -> int:
    """Show the queues in numbers: ready, unacked, delayed, dead, age of the next message.

    **ready** waits for a consumer · **unacked** is held under a lease; *expired* ones are handed
    out again by the next claim · **delayed** waits for its time; *due* ones go out with the next
    claim · **dead** was rejected, could not be decoded or was delivered too often.

    Without names these are the queues in the register, where the first message puts them. Those of
    older releases and of stock Kombu are found with --scan, which is also what happens while the
    register is empty. --watch shows rates as well; with --json it prints one array a line.
    """
    if scanning:
        if names:
            raise Usage("--scan is to find queues: name none")
        enter(session, discover(session, scanning=True))
    if watch:
        return _watch(session, names, interval)
    states, failed = inspect_whole(session, names or discover(session))
    if not names:
        states = without_vanished(session, states)
    if session.as_json:
        session.out.rows([row(state) for state in states])
    elif states:
        session.out.show(_table(session, states))
    elif not failed:
        session.out.note(f"no queues in {session.engine.address}")
    return failed


def without_vanished(session: Session, states: Sequence[QueueState]) -> list[QueueState]:
    """The same without queues of which nothing is there any more: the register forgets those."""

    def is_empty(state: QueueState) -> bool:
        parts = (state.ready, state.unacked, state.delayed, state.dead, state.stats, state.paused)
        return not any(parts)

    if not any(map(is_empty, states)):
        return list(states)
    consumed = {queue for process in roster(session).processes for queue in process.queues}
    empty = [state for state in states if is_empty(state) and state.name not in consumed]
    gone = [name for state in empty for name in (state.name, *state.partitions[1:])]
    with suppress(AtomqError):  # a user that may only look leaves that to others
        enter(session, gone, gone=True)
    return [state for state in states if state.name not in set(gone)]


def row(state: QueueState) -> dict[str, Any]:
    """A queue as a row of `schemas/cli.schema.json`."""
    return {
        "queue": state.name,
        "ready": state.ready,
        "ready_by_priority": {str(p): n for p, n in state.ready_by_priority.items()},
        "unacked": state.unacked,
        "expired": state.expired,
        "delayed": state.delayed,
        "due": state.due,
        "dead": state.dead,
        "next_due_ms": state.next_due_ms,
        "next_deadline_ms": state.next_deadline_ms,
        "oldest_seconds": oldest_seconds(state),
        "paused": state.paused,
        "inconsistent": state.inconsistent,
        "stats": state.stats,
        "partitions": list(state.partitions),
        "unanswered": list(state.unanswered),
    }


def oldest_seconds(state: QueueState) -> float | None:
    """How long ago the next ready message was published, if it says so."""
    put = Envelope(state.oldest).put_s
    return None if put is None else max(0.0, round(state.now_ms / 1000 - put, 3))


_COLUMNS = (
    Column("queue", style="bold"),
    Column("ready", "right"),
    Column("unacked", "right"),
    Column("expired", "right"),
    Column("delayed", "right"),
    Column("due", "right"),
    Column("dead", "right"),
    Column("oldest", "right", spare=1),
    Column("next due", "right", "dim", spare=2),
    Column("", gives=True),
)


def _table(
    session: Session,
    states: Sequence[QueueState],
    rates: dict[str, tuple[float, float]] | None = None,
) -> Table:
    columns: tuple[Column, ...] = _COLUMNS
    if rates is not None:
        columns = (*_COLUMNS[:-1], Column("in/s", "right"), Column("out/s", "right"), _COLUMNS[-1])
    rows = []
    for state in states:
        age = oldest_seconds(state)
        cells = [
            state.name,
            _count(state.ready),
            _count(state.unacked),
            _count(state.expired, "yellow"),
            _count(state.delayed),
            _count(state.due, "yellow"),
            _count(state.dead, "red"),
            "-" if age is None else duration(age),
            moment(state.next_due_ms, state.now_ms),
        ]
        if rates is not None:
            cells += [f"{rate:,.0f}" for rate in rates.get(state.name, (0.0, 0.0))]
        rows.append([*cells, _remark(state)])
    return table(columns, rows, session.out.console.width)


def _count(count: int, style: str = "") -> Any:
    from rich.text import Text

    return Text(number(count), style=style if count else "dim")


def _remark(state: QueueState) -> Any:
    from rich.text import Text

    remarks = []
    if state.paused:
        remarks.append(("paused", "yellow"))
    if state.partitions:
        remarks.append((f"{len(state.partitions)} partitions", "dim"))
    if state.unanswered:
        remarks.append((clean(f"without {', '.join(state.unanswered)}"), "red"))
    if state.inconsistent:
        remarks.append((f"{number(state.inconsistent)} damaged: see atomq doctor", "red"))
    return Text(" ").join(Text(text, style=style) for text, style in remarks)


# ── watch ─────────────────────────────────────────────────────────────────────────────────────


def _watch(session: Session, names: list[str] | None, interval: float) -> int:
    from contextlib import ExitStack

    with ExitStack() as stack:
        live = None
        if session.out.console.is_terminal and not session.as_json:
            from rich.live import Live

            live = stack.enter_context(
                Live(console=session.out.console, auto_refresh=False, screen=False)
            )
        try:
            for states, rates in _looks(session, names, interval):
                if session.as_json:
                    print(json.dumps([row(state) for state in states]), flush=True)
                elif live is not None:
                    live.update(_view(session, states, rates), refresh=True)
                else:
                    session.out.show(_table(session, states, rates))
        except KeyboardInterrupt:
            return Exit.OK
    return Exit.OK


def _looks(
    session: Session, names: list[str] | None, interval: float
) -> Iterator[tuple[list[QueueState], dict[str, tuple[float, float]]]]:
    before: dict[str, QueueState] = {}
    found, until = list(names or ()), 0.0
    while True:
        began = time.monotonic()
        if names is None and began >= until:
            found = discover(session)
            # Where looking takes long, look the less often.
            until = time.monotonic() + max(_REDISCOVER_SECONDS, 20 * (time.monotonic() - began))
        states, failed = inspect_whole(session, found)
        if failed and not states:
            raise typer.Exit(failed)
        yield states, {s.name: _rates(before.get(s.name), s) for s in states}
        before = {state.name: state for state in states}
        time.sleep(max(0.0, interval - (time.monotonic() - began)))


def _rates(before: QueueState | None, now: QueueState) -> tuple[float, float]:
    """Messages published and messages done, a second."""
    if before is None or now.now_ms <= before.now_ms:
        return 0.0, 0.0
    seconds = (now.now_ms - before.now_ms) / 1000

    def rate(*names: str) -> float:
        grown = (now.stats.get(name, 0) - before.stats.get(name, 0) for name in names)
        return max(0.0, sum(grown) / seconds)

    return rate("published"), rate("acked", "completed")


def _view(session: Session, states: list[QueueState], rates: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    clock = time.strftime("%H:%M:%S")
    head = Text(f"{clean(str(session.engine.address))}  {clock}  Ctrl-C ends", style="dim")
    return Group(
        head, Text(""), _table(session, states, rates) if states else Text("no queues", style="dim")
    )
