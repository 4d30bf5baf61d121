"""Messages as rows: what can be read of an envelope, of any producer, without ever failing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from atomq.cli.output import Column, clean, duration, gist, moment, size

if TYPE_CHECKING:
    from atomq.calls import Part, Peeked
    from atomq.cli.session import Session
    from atomq.keys import QueueKeys
    from atomq.message import Envelope

PARTS = ("ready", "delayed", "unacked", "dead")
_PAGE = 200
_SHOWN = 4096  # characters of a body on a terminal


def peeked(
    session: Session, keys: QueueKeys, part: Part, *, limit: int, offset: int = 0, after: str = ""
) -> Iterator[Peeked]:
    """Up to `limit` messages of a part, page by page; dead letters from the stream id `after`."""
    from atomq import calls

    while limit > 0:
        page = session.reader.run(
            calls.peek(keys, part, limit=min(limit, _PAGE), offset=offset, after=after)
        )
        yield from page
        if not page:
            return
        limit -= len(page)
        if part == "dead":
            after = page[-1].name
        else:
            offset += len(page)


def newest_dead(
    session: Session, keys: QueueKeys, *, since_ms: int, before: str, together: int = _PAGE
) -> Iterator[Peeked]:
    """The dead letters of a queue, the newest first; those before the id `before`.

    So many `together` are read at once.
    """
    from atomq.calls import Peeked

    end = f"({before}" if before else "+"
    while True:
        page = session.reader.command("XREVRANGE", keys.dead, end, since_ms, "COUNT", together)
        for name, fields in page:
            named = (
                fields if isinstance(fields, dict) else dict(zip(*[iter(fields)] * 2, strict=True))
            )
            text = {key.decode(): value for key, value in named.items() if key != b"message"}
            word = {key: value.decode("utf-8", "replace") for key, value in text.items()}
            end = f"({name.decode()}"
            yield Peeked(
                name.decode(),
                int(name.partition(b"-")[0]),
                _whole(word.get("deliveries"), 0),
                _whole(word.get("step"), 1),
                None,
                word.get("reason", ""),
                word.get("detail", ""),
                named.get(b"message", b""),
            )
        if len(page) < together:
            return


def dead_letter(session: Session, keys: QueueKeys, name: str) -> Peeked | None:
    """One dead letter by its stream id: the first behind the id before that."""
    from atomq import calls

    ms, seq = map(int, name.split("-"))
    before = f"{ms}-{seq - 1}" if seq else f"{max(0, ms - 1)}-18446744073709551615"
    found = session.reader.run(calls.peek(keys, "dead", limit=1, after=before))
    return found[0] if found and found[0].name == name else None


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else otherwise


def row(keys: QueueKeys, part: Part, found: Peeked, *, whole: bool = False) -> dict[str, Any]:
    """A message as a row of `schemas/cli.schema.json`; `whole`: with headers and body."""
    from atomq.message import Envelope

    envelope = Envelope(found.raw)
    made: dict[str, Any] = {
        "queue": keys.name,
        **_read(envelope),
        "priority": keys.priority_of(found.step),
        "deliveries": found.deliveries,
        "bytes": len(found.raw),
    }
    if part == "delayed":
        made |= {"id": found.name, "due_ms": found.time_ms or 0, "published_ms": found.since_ms}
    elif part == "unacked":
        made |= {
            "receipt": found.name,
            "holder": found.holder,
            "claimed_ms": found.since_ms,
            "deadline_ms": found.time_ms or 0,
        }
    elif part == "dead":
        made |= {
            "dead_id": found.name,
            "reason": found.reason or "unknown",
            "detail": found.detail,
            "died_ms": found.time_ms or 0,
        }
    if whole:
        made |= contents(found.raw)
    return made


def contents(raw: bytes) -> dict[str, Any]:
    """Headers and body of a message, as far as they can be read."""
    from atomq.message import Envelope

    envelope = Envelope(raw)
    return {"headers": _headers(envelope), "body": _body(envelope)}


def name_holders(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Say of what is held in which process, where that is in the register."""
    from atomq.cli.discovery import roster

    if not rows:
        return
    process_of = cache(roster(session).process_of)
    for row in rows:
        process = process_of(row["holder"])
        row["host"], row["pid"] = (process.host, process.pid) if process else (None, None)


def _read(envelope: Envelope) -> dict[str, Any]:
    from atomq.errors import InvalidMessage

    try:
        task = envelope.headers.get("task")
        kind = envelope.decoded.get("content-type")
        return {
            "id": envelope.id or None,
            "task": task if isinstance(task, str) else None,
            "content_type": kind if isinstance(kind, str) else None,
        }
    except InvalidMessage:
        return {"id": None, "task": None, "content_type": None}


def _headers(envelope: Envelope) -> dict[str, Any]:
    from atomq.errors import InvalidMessage

    try:
        headers: dict[str, Any] = _printable(envelope.headers, {})
        return headers
    except InvalidMessage:
        return {}


def _body(envelope: Envelope) -> Any:
    """The body, decoded where it can be; nothing is ever unpickled."""
    from atomq.errors import InvalidMessage

    try:
        data = envelope.data
        kind = envelope.decoded.get("content-type")
    except InvalidMessage:
        return _text(envelope.raw)
    if kind == "application/json":
        try:
            return _printable(json.loads(data, parse_constant=str), _text(data))
        except (ValueError, RecursionError):
            pass
    return _text(data)


def _printable(value: Any, otherwise: Any) -> Any:
    """The value if JSON can write it where it will stand: not NaN, and not nested without end."""
    try:
        json.dumps([[[[value]]]], allow_nan=False)
    except (ValueError, RecursionError):
        return otherwise
    return value


def _text(data: str | bytes) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"


# ── for people ────────────────────────────────────────────────────────────────────────────────

_ID = Column("id")
_TASK = Column("task", gives=True)
_PRIORITY = Column("priority", "right", spare=2)
_DELIVERIES = Column("deliveries", "right", spare=1)
_BYTES = Column("size", "right", "dim", spare=3)

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "ready": (_ID, _TASK, _PRIORITY, _DELIVERIES, _BYTES),
    "delayed": (_ID, _TASK, Column("due", "right"), _PRIORITY, _DELIVERIES, _BYTES),
    "unacked": (
        _ID,
        _TASK,
        Column("held for", "right"),
        Column("lease ends", "right"),
        _DELIVERIES,
        _PRIORITY,
        Column("holder", style="dim", spare=3),
    ),
    "dead": (
        Column("dead id", style="bold"),
        Column("died", "right"),
        Column("reason"),
        Column("detail", style="dim", gives=True, spare=2),
        _ID,
        _TASK._replace(spare=1),
    ),
}


def show(session: Session, part: Part, rows: Sequence[Mapping[str, Any]], now_ms: int) -> None:
    """Print rows as a table, the queue's name first where there are several."""
    several = len({row["queue"] for row in rows}) > 1
    columns = _COLUMNS[part]
    if not any(row["task"] for row in rows):  # no Celery here
        columns = tuple(column for column in columns if column.name != _TASK.name)
    head = (Column("queue", style="bold"),) if several else ()
    cells = []
    if part == "dead":
        rows = [{**row, "detail": gist(row["detail"])} for row in rows]
    for row in rows:
        values = [_CELLS.get(column.name, _plain)(column.name, row, now_ms) for column in columns]
        cells.append([row["queue"], *values] if several else values)
    session.out.table((*head, *columns), cells)


def show_whole(session: Session, part: Part, row: Mapping[str, Any], now_ms: int) -> None:
    """Print one row with its headers and body."""
    from rich.text import Text

    out = session.out
    columns = dict.fromkeys((*_COLUMNS[part], _DELIVERIES, _PRIORITY, _BYTES))
    for column in columns:
        value = _CELLS.get(column.name, _plain)(column.name, row, now_ms)
        if value not in (None, "", "-"):
            out.line(Text(f"{column.name:<12}", style="dim") + Text(clean(str(value))))
    for name in ("headers", "body"):
        if row.get(name) not in (None, {}, ""):
            out.line(Text(f"{name:<12}", style="dim") + Text(pretty(row[name])))
    out.line("")


def pretty(value: Any) -> str:
    """Any value in a line or some, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = clean(text)
    if len(text) > _SHOWN:
        return f"{text[:_SHOWN]}… ({size(len(text))} in all; --json prints it all)"
    return text


def _plain(name: str, row: Mapping[str, Any], _now_ms: int) -> Any:
    return row[name]


_CELLS: dict[str, Any] = {
    "holder": lambda _, row, __: (
        f"{row['host']} (pid {row['pid']})" if row.get("pid") else row["holder"]
    ),
    "dead id": lambda _, row, __: row["dead_id"],
    "size": lambda _, row, __: size(row["bytes"]),
    "due": lambda _, row, now: moment(row["due_ms"], now),
    "died": lambda _, row, now: moment(row["died_ms"], now),
    "lease ends": lambda _, row, now: moment(row["deadline_ms"], now),
    "held for": lambda _, row, now: (
        "-" if row["claimed_ms"] is None else duration((now - row["claimed_ms"]) / 1000)
    ),
}
