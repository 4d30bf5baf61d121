"""Queues in numbers, as commands ask for them: with their partitions, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atomq.cli.session import Session, exit_of
from atomq.errors import AtomqError, ServerUnavailable

if TYPE_CHECKING:
    from atomq.calls import QueueState
    from atomq.keys import QueueKeys

_TOGETHER = 50  # queues asked about in one round trip


def inspect_all(session: Session, names: Sequence[str]) -> tuple[list[QueueState], int]:
    """The queues in numbers, and the exit code of what failed (each named on stderr).

    The partitions of a queue are queues here.
    """
    from atomq import calls

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
