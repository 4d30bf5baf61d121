"""The ledger of the first act: what was promised, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atomq import Peeked, QueueState
from atomq.cli.demo.deaths import Death
from atomq.cli.demo.library.tally import Tally, path_of
from atomq.cli.demo.outcome import Entry, Outcome, rounded
from atomq.cli.output import number, plural

if TYPE_CHECKING:
    from atomq.cli.demo import DemoSettings


@dataclass(frozen=True)
class Played:
    """All there is to say about an act that is over."""

    settings: DemoSettings
    tally: Tally
    deaths: Sequence[Death]
    state: QueueState
    """The queue of files at the end."""
    dead: Sequence[Peeked]
    """Its dead letters."""
    urgent: Sequence[str]

    @property
    def left(self) -> int:
        """What nobody has done: it is still in the queue."""
        return self.state.ready + self.state.unacked + self.state.delayed

    @property
    def lost(self) -> int:
        """What is nowhere."""
        # By name: what its worker had answered and not yet acked may have become a dead letter.
        known = self.tally.found.keys() | {path_of(peeked) for peeked in self.dead}
        return max(0, self.tally.published - len(known) - self.left)

    @property
    def from_the_dead(self) -> set[str]:
        """Files that were held by workers when they died."""
        return {path for death in self.deaths for path in death.held.values()}

    @property
    def stolen(self) -> int:
        """Files that were handed out again while the worker that held them was alive."""
        return len(self.tally.redelivered - self.from_the_dead)


def outcome(played: Played) -> Outcome:
    """The ledger of an act that is over."""
    return Outcome("library", _facts(played), [*_messages(played), *_workers(played)])


def _facts(played: Played) -> dict[str, Any]:
    tally = played.tally
    return {
        "files": len(tally.paths),
        "published": tally.published,
        "completed": tally.completed,
        "wrong": tally.wrong,
        "dead": played.state.dead,
        "left": played.left,
        "lost": played.lost,
        "redelivered": len(tally.redelivered),
        "redelivered_while_held": played.stolen,
        "duplicates": tally.duplicates,
        "duplicates_unequal": tally.unequal,
        "delayed": len(tally.not_before),
        "early": len(tally.early),
        "urgent": len(played.urgent),
        "urgent_overtook": tally.overtaken,
        "urgent_seconds": rounded(tally.urgent_seconds),
        "lease_seconds": played.settings.lease,
        "published_per_second": round(tally.publishing),
        "completed_per_second": round(tally.per_second, 1),
        "done_by_worker": {
            str(worker): tally.by_worker[worker] for worker in sorted(tally.by_worker)
        },
        "deaths": [death.facts() for death in played.deaths],
    }


def _messages(played: Played) -> Iterator[Entry]:
    tally = played.tally
    yield Entry("published", number(tally.published), "every file, and one that does not exist")
    right = "each digest and line count is what is computed here"
    wrong = f"{number(tally.wrong)} of them with a wrong digest or line count"
    all_right = tally.completed == len(tally.paths) and not tally.wrong
    yield Entry("completed", number(tally.completed), wrong if tally.wrong else right, all_right)
    yield Entry("lost", number(played.lost), "neither done nor in the queue", played.lost == 0)
    if played.left:
        yield Entry("left over", number(played.left), "still in the queue", holds=False)
    only_missing = [path_of(peeked) for peeked in played.dead] == [tally.missing]
    yield Entry("dead letters", number(played.state.dead), _obituary(played.dead), only_missing)
    yield Entry("duplicates", number(tally.duplicates), _twice(played), tally.unequal == 0)
    note = (
        f"{number(len(tally.early))} of them handed out too early" if tally.early else "none early"
    )
    yield Entry("delayed", number(len(tally.not_before)), note, not tally.early)
    if tally.urgent_seconds is not None:
        took = f"done in {tally.urgent_seconds:.1f} s, ahead of {number(tally.overtaken)} others"
        yield Entry("urgent", number(len(played.urgent)), took)


def _workers(played: Played) -> Iterator[Entry]:
    tally, settings = played.tally, played.settings
    again, stolen = len(tally.redelivered), played.stolen
    note = f"{number(stolen)} of them although their holder was alive"
    held = "what a dead worker held, and nothing else"
    yield Entry("redelivered", number(again), note if stolen else held, stolen == 0)
    if not any(death.held for death in played.deaths):
        yield Entry("came back", "-", "no worker was killed while it held messages", holds=False)
    for death in played.deaths:
        if death.held:
            yield death.entry(settings.lease)
    pace = "as fast as it goes" if not settings.seconds else "slowed down to be watched"
    yield Entry(
        "throughput", f"{tally.per_second:.0f}/s", f"{pace}; published {tally.publishing:,.0f}/s"
    )


def _obituary(dead: Sequence[Peeked]) -> str:
    if not dead:
        return ""
    first = dead[0]
    why = first.detail.partition(":")[0] or first.reason
    more = f" and {number(len(dead) - 1)} more" if len(dead) > 1 else ""
    return f"{path_of(first)}: {why}, handed out {plural(first.deliveries, 'time')}{more}"


def _twice(played: Played) -> str:
    tally = played.tally
    if tally.unequal:
        return f"{number(tally.unequal)} of them not equal"
    if not tally.repeated:
        return ""
    if tally.repeated <= played.from_the_dead:
        return "answered and not yet acked when their worker died; all are equal"
    return "all are equal"
