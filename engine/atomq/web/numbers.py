"""Queues in numbers, as pages and actions ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from atomq import calls
from atomq.keys import QueueKeys
from atomq.web.samples import Sample, Seen
from atomq.web.site import Site

if TYPE_CHECKING:
    from atomq.calls import QueueOverview
    from atomq.overview import Overview


@dataclass(frozen=True)
class Shown:
    """A queue in numbers, with its last minutes."""

    now: QueueOverview
    seen: Seen


def shown(site: Site, states: list[QueueOverview]) -> list[Shown]:
    """These queues with their last minutes, in which they are remembered."""
    samples = {
        state.name: Sample(
            state.now_ms,
            state.backlog,
            state.stats.get("published", 0),
            state.stats.get("acked", 0) + state.stats.get("completed", 0),
        )
        for state in states
    }
    seen = site.samples.note(samples)
    return [Shown(state, seen[state.name]) for state in states]


def overview(site: Site, **wanted: Any) -> Overview:
    """Many queues in numbers: see `Engine.overview`."""
    return site.session.reader.overview(**wanted)


def known(site: Site, name: str) -> QueueOverview:
    """A queue in numbers. Raises `HTTPException` (404) if there is none of this name."""
    site.session.keys(name)  # which says what no queue may be called
    found = overview(site, names=[name]).queues[0]
    if found.is_empty and not found.paused:
        names = site.session.reader.run(calls.roster(site.session.engine.register.keys)).queues
        if name not in names:
            near = get_close_matches(name, names, 1)
            maybe = f" Did you mean {near[0]!r}?" if near else ""
            raise HTTPException(404, f"There is no queue {name!r}.{maybe}")
    return found


def spread(site: Site, state: QueueOverview) -> list[QueueKeys]:
    """The keys of a queue, or else of those of its partitions that answered."""
    names = [name for name in state.partitions if name not in state.unanswered]
    return [site.session.keys(name) for name in names or (state.name,)]
