"""`atomq queues`, and what is done to whole queues: pause, resume, purge, hand-back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from atomq.cli.output import Column, clean, duration, moment, number, plural, table
from atomq.cli.session import Exit, Session, Usage, command
from atomq.errors import AtomqError, ServerUnavailable

if TYPE_CHECKING:
    from rich.table import Table

    from atomq.calls import QueueState, Roster
    from atomq.keys import QueueKeys

_REDISCOVER_SECONDS = 10.0
_TOGETHER = 50  # queues asked about in one round trip


def completed(context: typer.Context, incomplete: str) -> list[str]:
    """The names of queues that begin so, for a shell: an empty list where they cannot be had."""
    given = [context.find_root().params, context.params]
    settings = [each for p in given for each in p.get("settings") or p.get("engine_options") or ()]
    budget = [] if any(s.startswith("retry_budget=") for s in settings) else ["retry_budget=0"]
    url = given[1].get("url") or given[0].get("url")
    session = Session(url, settings + budget, as_json=True)  # it shows no progress
    try:
        return [name for name in discover(session) if name.startswith(incomplete)]
    except AtomqError:
        return []
    finally:
        session.close()


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUEUE",
        help="Queues; all that are found, if none is named.",
        autocompletion=completed,
    ),
]
Some = Annotated[
    list[str], typer.Argument(metavar="QUEUE", help="Queues.", autocompletion=completed)
]
One = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.", autocompletion=completed)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    command(root, "queues", tables=True)(queues)
    for each in (pause, resume, purge):
        command(root, each.__name__)(each)
    command(root, "hand-back")(hand_back)


# ── look ──────────────────────────────────────────────────────────────────────────────────────


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
    states, failed = inspect_all(session, names or discover(session))
    states = whole(states)
    if not names:
        states = without_vanished(session, states)
    if session.as_json:
        session.out.rows([row(state) for state in states])
    elif states:
        session.out.show(_table(session, states))
    elif not failed:
        session.out.note(f"no queues in {session.engine.address}")
    return failed


def discover(session: Session, *, scanning: bool = False) -> list[str]:
    """The names of all queues: those in the register.

    While it is empty, or with `scanning`, the database is looked through, and they are those with
    keys of ours, and those bound by stock Kombu.
    """
    from atomq.errors import PermissionDenied
    from atomq.keys import check_name, is_queue_key

    if not scanning and (known := roster(session).queues):
        return known
    engine = session.reader
    prefix, sep = engine.options.global_keyprefix, engine.options.sep
    full: set[str] = set()
    try:
        with session.out.progress("looking for queues") as report:
            # Of a queue's keys at least one is a hash; its results, maybe millions, are strings.
            for count, key in enumerate(scan(session, "_atomq.{*}.*", "hash")):
                full.add(is_queue_key(key) or "")
                report(count)
            bound = set()
            for key in scan(session, f"{_glob(prefix)}_kombu.binding.*", "set"):
                if key.endswith((".pidbox", ".celeryev")) or "_kombu.binding.reply." in key:
                    continue  # workers talk to each other there
                for member in engine.command("SMEMBERS", key):
                    bound.add(member.decode("utf-8", "replace").rpartition(sep)[2])
    except PermissionDenied as error:
        if "scan" not in str(error).lower() and "smembers" not in str(error).lower():
            raise  # the password, for one
        raise PermissionDenied(
            f"to find queues this user would need +scan: name them ({error})"
        ) from error
    ours = {name.removeprefix(prefix) for name in full if name.startswith(prefix)} | bound
    return sorted(name for name in ours if _allowed(check_name, name, sep, engine.layout))


def roster(session: Session) -> Roster:
    """The register, with the names of all queues; empty where this user may not read it."""
    from atomq import flows
    from atomq.calls import Roster
    from atomq.errors import PermissionDenied, ScriptsNotLoaded

    try:
        return session.reader.run(flows.whole_roster(session.engine.register.keys))
    except (PermissionDenied, ScriptsNotLoaded):
        return Roster(0, [], [], 0)


def enter(session: Session, names: Sequence[str], *, gone: bool = False) -> None:
    """Have the register know of these queues, or (`gone`) forget them."""
    from atomq import calls

    for i in range(0, len(names), calls.MOST):
        some = names[i : i + calls.MOST]
        session.engine.run(calls.register(session.engine.register.keys, some, gone=gone))


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


def _allowed(check: Any, name: str, sep: str, layout: str) -> bool:
    try:
        check(name, sep=sep, layout=layout)
    except AtomqError:
        return False
    return True


def _glob(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in text)


def scan(session: Session, pattern: str, kind: str) -> Iterator[str]:
    """The keys of one type that match, on every node."""
    for node in session.engine.nodes():
        cursor: Any = 0
        while True:
            reply = node.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, "TYPE", kind)
            cursor, keys = _cursor_and_keys(reply)
            for key in keys:
                yield key.decode("utf-8", "replace") if isinstance(key, bytes) else key
            if cursor == 0:
                break


def _cursor_and_keys(reply: Any) -> tuple[int, list[Any]]:
    cursor, keys = reply
    if isinstance(cursor, dict):  # redis-py's cluster client: by node
        cursor = next(iter(cursor.values()))
    return int(cursor), keys


def inspect_all(session: Session, names: Sequence[str]) -> tuple[list[QueueState], int]:
    """The queues in numbers, and the exit code of what failed (each named on stderr).

    The partitions of a queue are queues here.
    """
    from atomq import calls
    from atomq.cli.session import exit_of

    states: list[QueueState] = []
    failed = 0
    left, asked_for = list(dict.fromkeys(names)), set(names)
    while left:
        some, left = left[:_TOGETHER], left[_TOGETHER:]
        asked = [calls.inspect(session.keys(name)) for name in some]
        for name, state in zip(some, session.reader.run_all(asked), strict=True):
            if isinstance(state, AtomqError):
                session.out.error(f"{name}: {state}")
                failed = max(failed, exit_of(state))
                continue
            states.append(state)
            left += [part for part in state.partitions if part not in asked_for]
            asked_for.update(state.partitions)
    return states, failed


def whole(states: Sequence[QueueState]) -> list[QueueState]:
    """The same, with the partitions of a queue as one."""
    from atomq import merging

    by_name = {state.name: state for state in states}
    parts = {name for state in states for name in state.partitions if name != state.name}
    found = []
    for state in states:
        if state.name in parts:
            continue
        answers = merging.Answers["QueueState"](state.name, state.partitions)
        for at, name in enumerate(state.partitions):
            if name in by_name:
                answers.found[at] = by_name[name]
            else:
                answers.missing[name] = ServerUnavailable("it did not answer")
        found.append(merging.state_of(answers) if state.partitions else state)
    return found


def spread(session: Session, queue: str) -> list[QueueKeys]:
    """The keys of a queue, and those of its other partitions."""
    from atomq import calls

    state = session.reader.run(calls.inspect(session.keys(queue)))
    return [session.keys(name) for name in state.partitions or (queue,)]


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
    try:
        at = json.loads(state.oldest)["properties"]["timestamp"]
        return max(0.0, round(state.now_ms / 1000 - float(at), 3))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


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
        states, failed = inspect_all(session, found)
        states = whole(states)
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


# ── move ──────────────────────────────────────────────────────────────────────────────────────


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
    rows = []
    for name, parts in all_keys.items():
        was = [session.engine.run(calls.pause(keys, paused=paused)) for keys in parts]
        rows.append({"queue": name, "paused": paused, "changed": any(w != paused for w in was)})
    if session.as_json:
        session.out.rows(rows)
    for each in rows if not session.as_json else ():
        state = "paused" if paused else "running"
        session.out.line(f"{each['queue']}: {state}{'' if each['changed'] else ' (as before)'}")
    return Exit.OK


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
    keys = spread(session, queue)
    found = [session.reader.run(calls.inspect(each)) for each in keys]
    state = whole(found)[0]
    counts = {name: getattr(state, name) for name, wanted in parts.items() if wanted}
    what = ", ".join(f"{number(count)} {name}" for name, count in counts.items()) or "its settings"
    if not session.agreed(f"Throw away {what} of {queue}?", yes=yes):
        return Exit.NOT_ALL
    done = calls.Counts()
    for each in reversed(keys):  # which they are is among the settings of the first
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
    return Exit.OK


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
    if session.as_json:
        session.out.rows(rows)
    shown = [row for row in rows if names or row["delayed"] or row["unacked"] or row["left"]]
    for each in shown if not session.as_json else ():
        session.out.line(
            f"{each['queue']}: handed back {number(each['delayed'])} delayed, "
            f"{number(each['unacked'])} unacked, {number(each['left'])} left"
        )
    if not shown:
        session.out.note("nothing was delayed or unacked")
    return failed or (Exit.NOT_ALL if any(each["left"] for each in rows) else Exit.OK)
