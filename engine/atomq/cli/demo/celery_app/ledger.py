"""The ledger of the second act: what was promised, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from atomq import Peeked, QueueState
from atomq.cli.demo.celery_app.plan import LONG
from atomq.cli.demo.celery_app.tally import PUNCTUAL, Tally, task_of
from atomq.cli.demo.deaths import Death
from atomq.cli.demo.outcome import Entry, Outcome, rounded
from atomq.cli.output import number, plural

LATE = 1.0  # seconds: the message is there at its time, and then waits for a free slot
BACK = 5.0  # seconds more in which a worker finds a server again that was away
MOST_CONNECTIONS = 3  # of a worker to the broker


@dataclass(frozen=True)
class Played:
    """All there is to say about an act that is over."""

    visibility_timeout: int
    modules: int
    long: str
    """Id of the long task."""
    tally: Tally
    deaths: Sequence[Death]
    state: QueueState
    """The queue at the end."""
    dead: Sequence[Peeked]
    """Its dead letters."""
    connections: int | None
    """The most that a worker had to the broker; None: this user may not ask."""
    restarts: int = 0
    """How often the server died and was started again."""

    @property
    def published(self) -> int:
        """Tasks that were sent."""
        return len(self.tally.jobs)

    @property
    def left(self) -> int:
        """What nobody has done: it is still in the queue."""
        return self.state.ready + self.state.unacked + self.state.delayed

    @property
    def lost(self) -> int:
        """What is nowhere."""
        buried = {task_of(peeked) for peeked in self.dead}
        return max(0, len(self.tally.pending - buried) - self.left)

    @property
    def from_the_dead(self) -> set[str]:
        """Tasks that were held by workers when they died."""
        return {task for death in self.deaths for task in death.held.values()}

    @property
    def stolen(self) -> int:
        """Tasks that were handed out again while the worker that held them was alive."""
        return len(self.tally.redelivered - self.from_the_dead)

    @property
    def late(self) -> list[float]:
        """By how many seconds tasks with an ETA started after it."""
        return sorted(self.tally.late(self.from_the_dead).values())

    @property
    def long_starts(self) -> int:
        """How often the long task was started."""
        return len(self.tally.starts.get(self.long, ()))


def outcome(played: Played) -> Outcome:
    """The ledger of an act that is over."""
    entries = [*_messages(played), *_time(played), *_workers(played)]
    return Outcome("celery", _facts(played), entries)


def _facts(played: Played) -> dict[str, Any]:
    tally, late = played.tally, played.late
    return {
        "published": played.published,
        "completed": tally.completed,
        "wrong": tally.wrong,
        "dead": played.state.dead,
        "left": played.left,
        "lost": played.lost,
        "redelivered": len(tally.redelivered),
        "redelivered_while_held": played.stolen,
        "restarted": len(tally.restarted),
        "eta": len(tally.due),
        "eta_late_seconds": rounded(max(late, default=None)),
        "eta_early": sum(seconds < -PUNCTUAL for seconds in late),
        "long_seconds": float(LONG * played.visibility_timeout),
        "long_starts": played.long_starts,
        "visibility_timeout": played.visibility_timeout,
        "connections": played.connections,
        "published_per_second": round(tally.publishing),
        "completed_per_second": round(tally.per_second, 1),
        "done_by_worker": {
            str(worker): tally.by_worker[worker] for worker in sorted(tally.by_worker)
        },
        "deaths": [death.facts() for death in played.deaths],
    }


def _messages(played: Played) -> Iterator[Entry]:
    tally = played.tally
    about = f"they parse or compile {plural(played.modules, 'module')} of the standard library"
    yield Entry("published", number(played.published), about)
    right = "each result is what is computed here"
    wrong = f"{number(tally.wrong)} of them with a wrong result"
    if tally.failed:
        wrong += f"; {next(iter(tally.failed.values()))}"
    all_right = tally.completed == played.published and not tally.wrong
    yield Entry("completed", number(tally.completed), wrong if tally.wrong else right, all_right)
    yield Entry("lost", number(played.lost), "neither done nor in the queue", played.lost == 0)
    if played.left:
        yield Entry("left over", number(played.left), "still in the queue", holds=False)
    if played.state.dead:
        yield Entry("dead letters", number(played.state.dead), _reasons(played.dead), holds=False)


def _time(played: Played) -> Iterator[Entry]:
    late, sent = played.late, len(played.tally.due)
    early = sum(seconds < -PUNCTUAL for seconds in late)
    note = f"the latest started {late[-1] * 1000:.0f} ms after its time" if late else "none started"
    if early:
        note = f"{number(early)} of them started too early"
    within = LATE + BACK * played.restarts
    punctual = bool(late) and not early and late[-1] <= within
    yield Entry("with an ETA", number(sent), note, punctual)
    timeout = played.visibility_timeout
    starts = played.long_starts
    often = "once" if starts == 1 else plural(starts, "time")
    note = f"{LONG} times the visibility timeout of {timeout} s, and started {often}"
    once = played.long in played.tally.results and (
        starts == 1 or played.long in played.from_the_dead
    )
    yield Entry("long task", f"{LONG * timeout} s", note, once)


def _workers(played: Played) -> Iterator[Entry]:
    tally = played.tally
    again, stolen = len(tally.redelivered), played.stolen
    note = f"{number(stolen)} of them although their holder was alive"
    if not stolen:
        note = "what a dead worker held, and nothing else"
        if tally.restarted:
            note += f"; {number(len(tally.restarted))} of it started twice"
    yield Entry("redelivered", number(again), note, stolen == 0)
    if not any(death.held for death in played.deaths):
        yield Entry("came back", "-", "no worker was killed while it held messages", holds=False)
    for death in played.deaths:
        if death.held:
            yield death.entry(played.visibility_timeout)
    if played.connections is not None:
        note = "of a worker to the broker; its result backend has its own"
        few = played.connections <= MOST_CONNECTIONS
        yield Entry("connections", number(played.connections), note, few)
    pace = f"two workers, and one since the other died; published {tally.publishing:,.0f}/s"
    yield Entry("throughput", f"{tally.per_second:.0f}/s", pace)


def _reasons(dead: Sequence[Peeked]) -> str:
    reasons = sorted({f"{peeked.reason} ({peeked.detail})".removesuffix(" ()") for peeked in dead})
    return ", ".join(reasons[:3])
