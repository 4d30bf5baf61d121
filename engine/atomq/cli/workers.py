"""`atomq workers`: the processes that consume, where they run and what they work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.output import Column, duration, moment, number
from atomq.cli.session import Session, command

if TYPE_CHECKING:
    from atomq.calls import Process

_WORK = {"queue": str, "id": str, "task": str, "seconds": (int, float)}


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    command(root, "workers", tables=True)(workers)


def workers(
    session: Session,
    *,
    scanning: Annotated[
        bool,
        typer.Option(
            "--scan",
            help="Look through the whole database too, for Celery workers of older releases.",
        ),
    ] = False,
) -> int | None:
    """Show the processes that consume: where they run, what they consume and work on.

    A process says so every 20 s, and is not shown any more a minute after it was killed. Processes
    of the library and Celery workers alike; what a client claims without consuming counts for a
    minute.
    """
    from atomq.cli.discovery import roster

    found = roster(session)
    rows = [row(process) for process in found.processes]
    if scanning:
        rows += _older(session)
    rows.sort(key=lambda each: (each["host"] or "", each["pid"] or 0))
    if session.as_json:
        session.out.rows(rows)
        return None
    if rows:
        session.out.table(_COLUMNS, [_cells(each, found.now_ms) for each in rows])
    else:
        session.out.note(f"no process consumes from {session.engine.address}")
    if found.alive > len(found.processes):
        shown, alive = number(len(found.processes)), number(found.alive)
        session.out.note(f"{shown} of {alive} processes")
    return None


def row(process: Process) -> dict[str, Any]:
    """A process as a row of `schemas/cli.schema.json`; what it says wrong is left out."""
    entry = process.entry
    work = entry.get("working")
    return {
        "process": process.name,
        **{name: _of(entry, name, str) for name in ("host", "kind", "name", "version")},
        **{name: _of(entry, name, int) for name in ("pid", "started_ms", "concurrency", "holds")},
        "said_ms": process.said_ms,
        "queues": process.queues,
        "queue_count": _of(entry, "queue_count", int),
        "working": [
            {name: _of(each, name, kind) for name, kind in _WORK.items()}
            for each in (work if isinstance(work, list) else ())
            if isinstance(each, dict)
        ],
    }


def _of(entry: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = entry.get(name)
    return value if isinstance(value, kind) else None


def _older(session: Session) -> list[dict[str, Any]]:
    """What Celery workers of releases up to 14144c1 say of themselves."""
    from atomq.calls import Process
    from atomq.cli.discovery import older_workers

    return [
        row(Process(each.name, _of(each.settings, "server_ms", int) or 0, dict(each.settings)))
        for each in older_workers(session)
    ]


# ── for people ────────────────────────────────────────────────────────────────────────────────

_COLUMNS = (
    Column("host", style="bold"),
    Column("pid", "right"),
    Column("what"),
    Column("version", style="dim", spare=4),
    Column("up", "right", spare=2),
    Column("said", "right", "dim", spare=3),
    Column("holds", "right"),
    Column("of", "right"),
    Column("queues", gives=True),
    Column("longest at work", gives=True, spare=1),
)


def _cells(row: Mapping[str, Any], now_ms: int) -> list[Any]:
    started, longest = row["started_ms"], next(iter(row["working"]), None)
    more = (row["queue_count"] or 0) - len(row["queues"])
    queues = ", ".join(row["queues"]) + (f", and {number(more)} more" if more > 0 else "")
    return [
        row["host"],
        str(row["pid"]),
        row["name"] or row["kind"],
        row["version"],
        duration((now_ms - started) / 1000) if started and now_ms else "-",
        moment(row["said_ms"], now_ms) if now_ms else "-",
        row["holds"],
        row["concurrency"],
        queues,
        f"{longest['task'] or longest['id']} for {duration(longest['seconds'])}" if longest else "",
    ]
