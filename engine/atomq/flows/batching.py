"""Verbs over any number of items: a call takes at most 1,000."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from atomq import calls
from atomq.calls import Call, Verdict
from atomq.flows.base import Flow, ask
from atomq.keys import QueueKeys

T = TypeVar("T")


def batches(items: Sequence[T], size: int = calls.MOST) -> list[Sequence[T]]:
    """Slices of at most `size`."""
    if 0 < len(items) <= size:  # as nearly always
        return [items]
    return [items[i : i + size] for i in range(0, len(items), size)]


def in_batches(
    items: Sequence[T], call: Callable[[Sequence[T]], Call[list[Verdict]]]
) -> Flow[list[Verdict]]:
    """A verb that takes items and answers verdicts, over any number of items.

    What one call did not reach within its bytes is asked for again, until it is done.
    """
    verdicts: list[Verdict] = []
    for batch in batches(items):
        found = yield from ask(call(batch))
        while found.count(Verdict.DONE) < len(found) and Verdict.AGAIN in found:
            left = [i for i, verdict in enumerate(found) if verdict is Verdict.AGAIN]
            again = yield from ask(call([batch[i] for i in left]))
            for i, verdict in zip(left, again, strict=True):
                found[i] = verdict
        verdicts += found
    return verdicts


def give_back(keys: QueueKeys, items: Sequence[tuple[str, str]]) -> Flow[list[Verdict]]:
    """Release what was not started, as if it had never been claimed: in front, uncounted."""
    return in_batches(items, lambda some: calls.release(keys, some, front=True, counted=False))
