"""`atomq dead`: what will not be delivered any more, and why; back to ready, or away."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomq.cli.discovery import Names, One, discover
from atomq.cli.help import group
from atomq.cli.inspecting import inspect_all, inspect_parts, over, spread
from atomq.cli.look import Limit
from atomq.cli.output import Column, moment, number, plural
from atomq.cli.session import Exit, Session, Usage, Yes, command, exactly_one, names_from

if TYPE_CHECKING:
    from atomq.calls import Peeked, QueueState
    from atomq.keys import QueueKeys

app = group(
    "What was rejected, could not be decoded or was delivered too often: look at it, put it "
    "back to ready, throw it away."
)

_TOGETHER = 100

Ids = Annotated[list[str], typer.Argument(metavar="DEAD-ID", help="As `dead list` shows them.")]
MaybeIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="DEAD-ID", help="As `dead list` shows them; - reads them from stdin."),
]
Reason = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Only those that died of this, as `max_deliveries`."),
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Only what died since: 90, 10m, 2h, 7d ago, or 2030-01-31T12:00+01:00.",
    ),
]
_OURS = ("max_deliveries", "expired", "undecodable", "corrupt", "rejected")  # reasons of the engine


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(app, name="dead")


@command(app, "list", tables=True)
def list_(
    session: Session,
    names: Names = None,
    *,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = 20,
    before: Annotated[
        str, typer.Option(metavar="DEAD-ID", help="Only what died before this one.")
    ] = "",
    oldest: Annotated[bool, typer.Option("--oldest", help="The longest dead first.")] = False,
    after: Annotated[
        str, typer.Option(metavar="DEAD-ID", help="Only what died after this one; --oldest.")
    ] = "",
) -> int:
    """List dead letters, the newest first, with the reason of each.

    Without names those of all queues that are found. --limit is for all of them together.
    """
    from atomq.cli import messages

    if before and (after or oldest):
        raise Usage("--before is for the newest first, --after and --oldest for the longest dead")
    if (before or after) and len(names or ()) != 1:
        raise Usage("--before and --after go on in one queue: two may have letters of the same id")
    looking = _Looking(
        session, since, dead_id(after) if after else "", dead_id(before) if before else ""
    )
    states, failed = inspect_all(session, names or discover(session))
    states = [state for state in states if state.dead]
    dead = sum(state.dead for state in states)
    rows: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    newest = not (oldest or after)
    with session.out.progress("reading", dead) as report:
        for seen, (keys, letter) in enumerate(looking.letters(states, newest=newest)):
            report(seen)
            reasons[letter.reason] += 1
            if reason in (None, letter.reason):
                rows.append(messages.row(keys, "dead", letter))
            if len(rows) == limit:
                break
    if reason is not None and not rows:
        _check_reason(reason, reasons)
    if session.as_json:
        session.out.rows(rows)
        return failed
    if rows:
        messages.show(session, "dead", rows, max(state.now_ms for state in states))
    if not dead:
        session.out.note(
            f"{', '.join(names or ())} has no dead letters" if names else "no dead letters"
        )
    elif len(rows) < dead:
        way = (
            f"go on with --{'before' if newest else 'after'} {rows[-1]['dead_id']}" if rows else ""
        )
        way = way if len(names or ()) == 1 else "--limit shows more"
        more = f"; {way}" if len(rows) == limit else ""
        session.out.note(f"{number(len(rows))} of {plural(dead, 'dead letter')}{more}")
    return failed


@command(app, "reasons", tables=True)
def reasons(session: Session, names: Names = None, *, since: Since = None) -> int:
    """Count dead letters by their reasons. Without names those of all queues that are found.

    It reads them all: --since reads those that died since.
    """
    looking = _Looking(session, since)
    states, partitions, failed = inspect_parts(session, names or discover(session))
    wholes = {part: queue for queue, parts in partitions.items() for part in parts}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    with session.out.progress("reading", sum(state.dead for state in states)) as report:
        for seen, (keys, letter) in enumerate(looking.letters(states, newest=False)):
            report(seen)
            reason, died = letter.reason or "unknown", letter.time_ms or 0
            queue = wholes.get(keys.name, keys.name)
            new = {"queue": queue, "reason": reason, "count": 0, "first_ms": died}
            row = rows.setdefault((queue, reason), new)
            row |= {"count": row["count"] + 1, "last_ms": died}
    most_first = sorted(rows.values(), key=lambda row: -row["count"])
    if session.as_json:
        session.out.rows(most_first)
    elif not rows:
        session.out.note("no dead letters")
    else:
        now = max(state.now_ms for state in states)
        session.out.table(
            _REASONS,
            [
                [r["queue"], r["reason"], r["count"], *(moment(r[at], now) for at in _TIMES)]
                for r in most_first
            ],
        )
    return failed


_REASONS = (
    Column("queue", style="bold"),
    Column("reason"),
    Column("dead", "right"),
    Column("first", "right", spare=1),
    Column("last", "right"),
)
_TIMES = ("first_ms", "last_ms")


class _Looking:
    """Reads the dead letters of several queues, in the order of their death."""

    def __init__(
        self, session: Session, since: str | None, after: str = "", before: str = ""
    ) -> None:
        from atomq.cli import times

        times.since("--since", since, 0)  # a slip is one where nothing is dead, too
        self._session, self._since, self._after, self._before = session, since, after, before

    def letters(
        self, states: Sequence[QueueState], *, newest: bool
    ) -> Iterator[tuple[QueueKeys, Peeked]]:
        """Each with the keys of its queue."""
        some = [self._of(state, newest=newest) for state in states if state.dead]
        return heapq.merge(*some, key=lambda each: order(each[1].name), reverse=newest)

    def _of(self, state: QueueState, *, newest: bool) -> Iterator[tuple[QueueKeys, Peeked]]:
        from atomq.cli import messages, times
        from atomq.errors import PermissionDenied

        keys = self._session.keys(state.name)
        since_ms = times.since("--since", self._since, state.now_ms)
        if newest:
            try:
                for letter in messages.newest_dead(
                    self._session, keys, since_ms=since_ms, before=self._before
                ):
                    yield keys, letter
            except PermissionDenied as error:
                raise PermissionDenied(
                    f"the newest first needs +xrevrange: --oldest does without ({error})"
                ) from error
            return
        start = f"{since_ms - 1}-{LAST}" if since_ms else ""
        after = max(start, self._after, key=order)
        for letter in messages.peeked(self._session, keys, "dead", limit=state.dead, after=after):
            yield keys, letter


LAST = 2**64 - 1  # the last number of a millisecond in the ids of a stream


def order(name: str) -> tuple[int, int]:
    """By this key the ids of dead letters sort as they died."""
    ms, _, number_ = name.partition("-")
    return int(ms or 0), int(number_ or 0)


def _check_reason(reason: str, there: Counter[str]) -> None:
    """Raise `Usage` if nothing died of this, and it is no reason of the engine either."""
    if there and not there[reason] and reason not in _OURS:
        found = ", ".join(f"{name or 'unknown'} ({n})" for name, n in there.most_common())
        raise Usage(f"nothing here died of {reason!r}; there are {found}")


@command(app, "show")
def show(session: Session, queue: One, ids: Ids) -> int:
    """Show dead letters whole: reason, detail, headers and body."""
    from atomq import calls
    from atomq.cli import messages

    keys = session.keys(queue)
    now = session.reader.run(calls.inspect(keys)).now_ms
    rows, missing = [], []
    for name in names_from(ids, what="ids"):
        letter = messages.dead_letter(session, keys, dead_id(name))
        if letter is None:
            missing.append(name)
        else:
            rows.append(messages.row(keys, "dead", letter, whole=True))
    if session.as_json:
        session.out.rows(rows)
    else:
        for row in rows:
            messages.show_whole(session, "dead", row, now)
    for name in missing:
        session.out.error(f"{name}: no such dead letter in {queue}")
    return Exit.NOT_ALL if missing else Exit.OK


@command(app, "redrive")
def redrive(
    session: Session, queue: One, ids: MaybeIds = None, *, all_: All = False, reason: Reason = None
) -> int:
    """Put dead letters back to ready, their deliveries forgotten.

    Name them, or give --all or --reason: those that are dead now, the longest dead first. What
    cannot be decoded stays. A full server refuses, and what was moved until then stays moved:
    repeat it. Exit code 1 if some stayed.
    """
    exactly_one(ids=bool(ids), all=all_ and reason is None, reason=reason is not None)
    failed = 0
    if ids:
        done, left = _redrive_named(session, session.keys(queue), names_from(ids, what="ids"))
    else:
        parts, failed = _counted(session, queue)
        done, left = _redrive_many(session, parts, reason or "")
    reported = session.report(queue, f"put {plural(done, 'message')} back to ready", done, left)
    return failed or reported


def _counted(session: Session, queue: str) -> tuple[dict[QueueKeys, int], int]:
    """How many dead letters each partition has, and the exit code of those that are away."""
    from atomq import calls

    return over(
        session, spread(session, queue), lambda keys: session.reader.run(calls.inspect(keys)).dead
    )


def _redrive_named(
    session: Session, keys: QueueKeys, names: Sequence[str]
) -> tuple[int, dict[str, str]]:
    from atomq import calls
    from atomq.errors import AtomqError

    done, left = 0, {}
    names = [dead_id(name) for name in names]
    with session.out.progress("putting back", len(names)) as report:
        for i in range(0, len(names), _TOGETHER):
            batch = names[i : i + _TOGETHER]
            looks = [calls.redrive(keys, [name], look=True) for name in batch]
            found = {}
            for name, looked in zip(batch, session.engine.run_all(looks), strict=True):
                if isinstance(looked, AtomqError):
                    raise looked
                if looked.found:
                    found[name] = looked.found[0][1]
                else:
                    left[name] = (
                        "cannot be decoded, stays" if looked.seen else "no such dead letter"
                    )
            moves = [calls.redrive(keys, [name], messages=[found[name]]) for name in found]
            for name, moved in zip(found, session.engine.run_all(moves), strict=True):
                if isinstance(moved, AtomqError):
                    raise moved
                if moved.count:
                    done += 1
                else:  # another one was faster
                    left[name] = "no such dead letter"
            report(i + len(batch))
    return done, left


def _redrive_many(
    session: Session, parts: dict[QueueKeys, int], reason: str
) -> tuple[int, dict[str, str]]:
    from atomq import flows

    done, total = 0, sum(parts.values())
    with session.out.progress("putting back", None if reason else total) as report:
        for keys in parts:
            so_far = partial(_add, report, done)
            done += session.engine.run(flows.redrive_all(keys, reason=reason, report=so_far))
    if reason and not done:
        _dead_of(session, list(parts), reason, total)
    if reason or done >= total:
        return done, {}
    return done, {plural(total - done, "dead letter"): "cannot be decoded, stay"}


@command(app, "purge")
def purge(
    session: Session,
    queue: One,
    ids: MaybeIds = None,
    *,
    all_: All = False,
    reason: Reason = None,
    yes: Yes = False,
) -> int:
    """Throw dead letters away for good. Name them, or give --all or --reason.

    Exit code 1 if some were not there.
    """
    from atomq import calls

    exactly_one(ids=bool(ids), all=all_ and reason is None, reason=reason is not None)
    by_part: dict[QueueKeys, list[str]]
    parts: dict[QueueKeys, int] = {}
    failed = 0
    if ids:
        by_part = {session.keys(queue): [dead_id(name) for name in names_from(ids, what="ids")]}
    else:
        parts, failed = _counted(session, queue)
        by_part = _dead_of(session, list(parts), reason, sum(parts.values())) if reason else {}
    total = sum(parts.values()) if all_ and not reason else sum(map(len, by_part.values()))
    if not session.agreed(f"Throw away {plural(total, 'dead letter')} of {queue}?", yes=yes):
        return Exit.NOT_ALL
    if all_ and not reason:
        done = sum(session.engine.run(calls.purge(each, dead=True)).dead for each in parts)
        reported = session.report(queue, f"threw away {plural(done, 'dead letter')}", done, {})
        return failed or reported
    done = 0
    with session.out.progress("throwing away", total) as report:
        for keys, names in by_part.items():
            for i in range(0, len(names), calls.MOST):
                batch = names[i : i + calls.MOST]
                done += session.engine.run(calls.purge(keys, dead_ids=batch)).dead
                report(done)
    left = {plural(total - done, "dead letter"): "not there"} if done < total else {}
    reported = session.report(queue, f"threw away {plural(done, 'dead letter')}", done, left)
    return failed or reported


# ── ids ───────────────────────────────────────────────────────────────────────────────────────


def dead_id(text: str) -> str:
    """The same text. Raises `Usage` if it is no id of a dead letter."""
    if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", text):
        raise Usage(f"{text!r} is no id of a dead letter: one looks like 1790000000000-0")
    return text


def _dead_of(
    session: Session, parts: Sequence[QueueKeys], reason: str, total: int
) -> dict[QueueKeys, list[str]]:
    """The dead letters of this reason. Raises `Usage` if it is a typo."""
    from atomq.cli import messages

    found: dict[QueueKeys, list[str]] = {}
    reasons, seen = Counter[str](), 0
    with session.out.progress("reading", total) as report:
        for keys in parts:
            for letter in messages.peeked(session, keys, "dead", limit=total):
                seen += 1
                report(seen)
                reasons[letter.reason] += 1
                if letter.reason == reason:
                    found.setdefault(keys, []).append(letter.name)
    _check_reason(reason, reasons)
    return found


def _add(report: Callable[[int], None], before: int, count: int) -> None:
    report(before + count)
