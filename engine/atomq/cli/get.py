"""`atomq get`, `cancel` and `run-now`: single messages by their ids, wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.delayed import Ids, in_any, steered
from atomq.cli.discovery import One
from atomq.cli.inspecting import over, spread
from atomq.cli.output import clean, moment
from atomq.cli.session import Exit, Session, command, names_from

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atomq.calls import MessageStatus, Verdict
    from atomq.flows import Flow
    from atomq.keys import QueueKeys


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    command(root, "get")(get)
    command(root, "cancel")(cancel)
    command(root, "run-now")(run_now)


def get(
    session: Session,
    queue: One,
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id.")],
) -> int:
    """Say where one message is: ready, delayed, held, done, dead, cancelled.

    Of a message that was put with --tracked this is known for a day at least after it last moved.
    Others are searched for among 1,000 messages of each part. Exit code 1 if it is not found, or
    what became of it is not known.
    """
    from atomq import flows

    register = session.engine.register.keys
    answers, failed = over(
        session,
        spread(session, queue),
        lambda keys: session.reader.run(flows.status(keys, register, message_id)),
    )
    # In which partition it lies is not always in its id.
    keys, found = min(answers.items(), key=lambda one: _NOWHERE.get(one[1].state, 0))
    row = _row(keys, found)
    if session.as_json:
        session.out.rows([row])
    else:
        _show(session, row, found.now_ms)
    if found.state not in _NOWHERE:
        return Exit.OK
    return failed or Exit.NOT_ALL


_NOWHERE = {"gone": 1, "unknown": 2}


def cancel(session: Session, queue: One, ids: Ids) -> int:
    """Cancel messages, be they delayed, ready or held.

    What is delayed or ready is gone for good. The holder of a held one hears of it when it renews
    its lease; when it gives the message back, or dies, no other gets it. Exit code 1 if some were
    not found.
    """
    from atomq import flows

    return _steer(session, queue, ids, flows.cancel, "cancelled", "neither delayed, ready nor held")


def run_now(session: Session, queue: One, ids: Ids) -> int:
    """Let delayed messages fall due at once.

    Exit code 1 if some are not delayed.
    """
    from atomq import flows

    return _steer(session, queue, ids, flows.run_now, "due now:", "not delayed")


def _steer(
    session: Session,
    queue: str,
    ids: list[str],
    verb: Callable[[QueueKeys, Sequence[str]], Flow[list[Verdict]]],
    done_text: str,
    why: str,
) -> int:
    wanted = names_from(ids, what="ids")
    verdicts, failed = in_any(
        session, queue, wanted, lambda keys, some: session.engine.run(verb(keys, some))
    )
    return steered(session, queue, wanted, verdicts, done_text, why, failed)


def _row(keys: QueueKeys, found: MessageStatus) -> dict[str, Any]:
    from atomq.cli.messages import contents

    progress = found.progress
    row: dict[str, Any] = {
        "queue": keys.name,
        "id": found.id,
        "state": found.state,
        "certain": found.certain,
        "tracked": found.tracked,
        "note": found.note,
        "since_ms": found.since_ms,
        "due_ms": found.due_ms,
        "deadline_ms": found.lease_ends_ms,
        "deliveries": found.deliveries,
        "priority": keys.priority_of(found.step) if found.step is not None else None,
        "receipt": found.receipt or None,
        "holder": found.holder or None,
        "host": found.host or None,
        "pid": found.pid,
        "cancelling": found.cancelling,
        "dead_id": found.letter or None,
        "reason": found.reason,
        "detail": found.detail,
        "result": found.result,
        "progress": None,
    }
    if progress is not None:
        said = {"fraction": progress.fraction, "text": progress.text, "at_ms": progress.at_ms}
        row["progress"] = said
    return row | (contents(found.raw) if found.raw is not None else {})


def _show(session: Session, row: dict[str, Any], now_ms: int) -> None:
    from rich.text import Text

    from atomq.cli.messages import pretty

    fields = {
        "state": row["state"] + (", being cancelled" if row["cancelling"] else ""),
        "since": row["since_ms"] and moment(row["since_ms"], now_ms),
        "due": row["due_ms"] and moment(row["due_ms"], now_ms),
        "holder": f"{row['host']} (pid {row['pid']})" if row["host"] else row["holder"],
        "lease ends": row["deadline_ms"] and moment(row["deadline_ms"], now_ms),
        "deliveries": row["deliveries"],
        "priority": row["priority"],
        "dead id": row["dead_id"],
        "reason": row["reason"],
        "detail": row["detail"],
        "result": row["result"],
        "note": row["note"] or ("" if row["certain"] else "so says its record, unverified"),
        "headers": row.get("headers"),
        "body": row.get("body"),
    }
    if (progress := row["progress"]) is not None:
        share = "" if progress["fraction"] is None else f"{progress['fraction']:.0%} "
        fields["progress"] = f"{share}{progress['text']}"
    session.out.line(Text(clean(row["id"]), style="bold"))
    for name, value in fields.items():
        if value not in (None, "", {}):
            session.out.line(Text(f"{name:<12}", style="dim") + Text(pretty(value)))
