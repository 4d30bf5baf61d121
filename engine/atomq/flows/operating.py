"""What an operator has done to a whole queue, over as many calls as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atomq import calls
from atomq.errors import ServerUnavailable
from atomq.flows.base import Flow, ask
from atomq.flows.batching import batches
from atomq.keys import QueueKeys, RegisterKeys
from atomq.partitions import COPY, copies_of


def redrive_all(
    keys: QueueKeys,
    *,
    until: str = "",
    reason: str = "",
    report: Callable[[int], None] = lambda _: None,
) -> Flow[int]:
    """Every dead letter (of this reason) back to ready, those that died until now; how many.

    `report` is called with the running count after every call.
    """
    total, after = 0, ""
    if not until:
        newest = yield from ask(calls.inspect(keys))
        until = f"{newest.now_ms}-18446744073709551615"
    while True:
        answer = yield from ask(
            calls.redrive(keys, after=after, until=until, reason=reason, limit=500, look=True)
        )
        total += yield from _redrive(keys, answer)
        report(total)
        if answer.seen == 0:
            return total
        after = answer.last


def redrive(keys: QueueKeys, ids: Sequence[str], *, reason: str = "") -> Flow[int]:
    """These dead letters (of this reason) back to ready; how many."""
    total = 0
    for batch in batches(ids):
        left = list(batch)
        while left:
            answer = yield from ask(calls.redrive(keys, left, reason=reason, look=True))
            total += yield from _redrive(keys, answer)
            # Not all may have been reached within the bytes of a call.
            left = left[left.index(answer.last) + 1 :] if answer.last in left else []
    return total


def _redrive(keys: QueueKeys, looked: calls.Redriven) -> Flow[int]:
    """Move what was found, and forget the results of its messages."""
    if not looked.found:
        return 0
    letters, messages = zip(*looked.found, strict=True)
    moved = yield from ask(calls.redrive(keys, letters, messages=messages))
    return moved.count


def hand_back_all(
    keys: QueueKeys,
    *,
    unacked: bool = True,
    delayed: bool = True,
    report: Callable[[int], None] = lambda _: None,
) -> Flow[calls.HandedBack]:
    """All delayed and leased messages into the lists that stock workers read."""
    delayed_count = unacked_count = 0
    while True:
        answer = yield from ask(calls.hand_back(keys, unacked=unacked, delayed=delayed, limit=500))
        delayed_count, unacked_count = (
            delayed_count + answer.delayed,
            unacked_count + answer.unacked,
        )
        report(delayed_count + unacked_count)
        if answer.left == 0 or answer.delayed + answer.unacked == 0:
            return calls.HandedBack(delayed_count, unacked_count, answer.left)


def whole_roster(keys: RegisterKeys) -> Flow[calls.Roster]:
    """The register, with the names of all queues in their order."""
    page = yield from ask(calls.roster(keys))
    names = page.queues
    while len(page.queues) == calls.MOST:
        page = yield from ask(calls.roster(keys, after=names[-1]))
        names += page.queues
    return page._replace(queues=names)


def copied_record(keys_of: Callable[[str], QueueKeys], queue: str) -> Flow[str]:
    """The record of a queue's partitions while the node of the first is away; "": none is found.

    On a cluster the others have copies of it. None waits long for its node.
    """
    for name in copies_of(queue):
        call = calls.partitions(keys_of(name))
        call.brief = True
        try:
            found = yield from ask(call)
        except ServerUnavailable:
            continue
        if found:
            return found.removeprefix(COPY)
    return ""


def leave(keys: QueueKeys, consumer: str) -> Flow[int]:
    """A consumer leaves; if it is the last, delayed messages of Celery's go to ready: how many."""
    moved = skip = 0
    while True:
        answer = yield from ask(calls.attend(keys, consumer, skip=skip))
        moved, skip = moved + answer.ready, skip + answer.kept
        if answer.left == 0:
            return moved
