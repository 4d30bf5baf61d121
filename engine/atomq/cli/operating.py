"""What is done to whole queues: `atomq pause`, `resume`, `purge` and `hand-back`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, cast

import typer

from atomq.cli.discovery import Names, One, Some, discover
from atomq.cli.inspecting import inspect_all, over, spread
from atomq.cli.output import number, plural
from atomq.cli.session import Exit, Session, Usage, Yes, command
from atomq.errors import ServerUnavailable


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    for each in (pause, resume, purge):
        command(root, each.__name__)(each)
    command(root, "hand-back")(hand_back)


def pause(session: Session, queues: Some) -> int:
    """Stop handing out messages of these queues, until `atomq resume`.

    They go on taking messages, and the holder of one may finish it.
    """
    return _set_paused(session, queues, paused=True)


def resume(session: Session, queues: Some) -> int:
    """Hand out messages of these queues again; a waiting consumer is woken at once."""
    return _set_paused(session, queues, paused=False)


def _set_paused(session: Session, queues: list[str], *, paused: bool) -> int:
    from atomq import calls

    all_keys = {name: spread(session, name) for name in queues}
    rows, failed = [], 0
    for name, parts in all_keys.items():
        was, away = over(
            session, parts, lambda keys: session.engine.run(calls.pause(keys, paused=paused))
        )
        changed = any(w != paused for w in was.values())
        rows.append({"queue": name, "paused": paused, "changed": changed})
        failed = max(failed, away)
    if session.as_json:
        session.out.rows(rows)
        return failed
    state = "paused" if paused else "running"
    for each in rows:
        session.out.line(f"{each['queue']}: {state}{'' if each['changed'] else ' (as before)'}")
    return failed


def purge(
    session: Session,
    queue: One,
    *,
    ready: Annotated[bool, typer.Option("--ready", help="What waits for a consumer.")] = False,
    delayed: Annotated[bool, typer.Option("--delayed", help="What waits for its time.")] = False,
    unacked: Annotated[
        bool, typer.Option("--unacked", help="What consumers hold: their acks will find nothing.")
    ] = False,
    dead: Annotated[bool, typer.Option("--dead", help="The dead letters.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="All four.")] = False,
    settings: Annotated[
        bool,
        typer.Option(
            "--settings",
            help="The counters, the pause and the remembered ids too: with --all, nothing is left.",
        ),
    ] = False,
    yes: Yes = False,
) -> int:
    """Throw away what a queue holds, in the parts named. It cannot be undone."""
    from atomq import calls, merging

    parts = {"ready": ready, "delayed": delayed, "unacked": unacked, "dead": dead}
    if all_:
        parts = dict.fromkeys(parts, True)
    if not any(parts.values()) and not settings:
        raise Usage(
            "say what to throw away: --ready, --delayed, --unacked, --dead, --settings or --all"
        )
    found, failed = over(
        session, spread(session, queue), lambda keys: session.reader.run(calls.inspect(keys))
    )
    if failed and settings:
        raise ServerUnavailable("the settings say which partitions there are: nothing was done")
    counts = {
        name: sum(getattr(state, name) for state in found.values())
        for name, wanted in parts.items()
        if wanted
    }
    what = ", ".join(f"{number(count)} {name}" for name, count in counts.items()) or "its settings"
    if not session.agreed(f"Throw away {what} of {queue}?", yes=yes):
        return Exit.NOT_ALL
    done = calls.Counts()
    for each in reversed(list(found)):  # which they are is among the settings of the first
        one = session.engine.run(
            calls.purge(each, settings=settings, **cast("dict[str, Any]", parts))
        )
        done = merging.counts([done, one])
    if session.as_json:
        session.out.rows([{"queue": queue, **done._asdict()}])
    else:
        gone = (
            ", ".join(f"{number(getattr(done, name))} {name}" for name in counts) or "its settings"
        )
        session.out.line(f"{queue}: threw away {gone}")
    return failed


def _add(report: Callable[[int], None], before: int, count: int) -> None:
    report(before + count)


def hand_back(
    session: Session,
    names: Names = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every queue that is found.")] = False,
    unacked: Annotated[bool, typer.Option(help="What atomq consumers hold.")] = True,
    delayed: Annotated[bool, typer.Option(help="What waits for its time.")] = True,
) -> int:
    """Move delayed and unacked messages into the lists that stock Kombu workers read.

    The last step of going back to stock Celery: stop the atomq workers first. What a living one
    still holds is handed out a second time. Delayed messages keep their eta, which stock workers
    wait for themselves. Dead letters stay: `atomq dead redrive` moves those.
    """
    from atomq import flows

    if bool(names) == all_:
        raise Usage("name the queues, or give --all")
    chosen = names or discover(session, scanning=True)
    states, failed = inspect_all(session, chosen)
    held = sum(state.unacked - state.expired for state in states) if unacked else 0
    if held:
        session.out.note(
            f"{plural(held, 'message')} still held by consumers: they go out a second time"
        )
    total = sum(s.unacked * unacked + s.delayed * delayed for s in states)
    rows, before = [], 0
    with session.out.progress("handing back", total) as report:
        for state in states:
            done = session.engine.run(
                flows.hand_back_all(
                    session.keys(state.name),
                    unacked=unacked,
                    delayed=delayed,
                    report=partial(_add, report, before),
                )
            )
            before += done.delayed + done.unacked
            rows.append({"queue": state.name, **done._asdict()})
    shown = [row for row in rows if names or row["delayed"] or row["unacked"] or row["left"]]
    if session.as_json:
        session.out.rows(rows)
    else:
        for each in shown:
            session.out.line(
                f"{each['queue']}: handed back {number(each['delayed'])} delayed, "
                f"{number(each['unacked'])} unacked, {number(each['left'])} left"
            )
    if not shown:
        session.out.note("nothing was delayed or unacked")
    return failed or (Exit.NOT_ALL if any(each["left"] for each in rows) else Exit.OK)
