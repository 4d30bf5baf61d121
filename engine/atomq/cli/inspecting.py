"""Queues in numbers, as commands ask for them: with their partitions, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from atomq.cli.session import Exit, Session, exit_of
from atomq.errors import AtomqError, ServerUnavailable

if TYPE_CHECKING:
    from atomq.calls import QueueState
    from atomq.keys import Place, QueueKeys

T = TypeVar("T")

_TOGETHER = 50  # queues asked about in one round trip


def inspect_all(session: Session, names: Sequence[str]) -> tuple[list[QueueState], int]:
    """The queues in numbers, and the exit code of what failed (each named on stderr).

    The partitions of a queue are queues here, also of one whose first partition is away.
    """
    states, _, failed = inspect_parts(session, names)
    return states, failed


def inspect_whole(session: Session, names: Sequence[str]) -> tuple[list[QueueState], int]:
    """The same, with the partitions of a queue as one."""
    from atomq import merging

    states, partitions, failed = inspect_parts(session, names)
    by_name = {state.name: state for state in states}
    parts = {name for queue, all_ in partitions.items() for name in all_ if name != queue}
    found = []
    for queue in [*by_name, *(queue for queue in partitions if queue not in by_name)]:
        if queue in parts:
            continue
        if not (names_ := partitions.get(queue)):
            found.append(by_name[queue])
            continue
        answers = merging.Answers["QueueState"](queue, names_)
        for at, name in enumerate(names_):
            if name in by_name:
                answers.found[at] = by_name[name]
            else:
                answers.missing[name] = ServerUnavailable("it did not answer")
        if answers.found:
            found.append(merging.state_of(answers))
    return found, failed


def inspect_parts(
    session: Session, names: Sequence[str]
) -> tuple[list[QueueState], dict[str, tuple[str, ...]], int]:
    """The queues in numbers, the partitions of those that have any, and what failed."""
    from atomq import calls

    states: list[QueueState] = []
    partitions: dict[str, tuple[str, ...]] = {}
    errors: dict[str, AtomqError] = {}
    trouble: ServerUnavailable | None = None
    left, asked_for = list(dict.fromkeys(names)), set(names)
    while left:
        some, left = left[:_TOGETHER], left[_TOGETHER:]
        asked = [calls.inspect(session.keys(name)) for name in some]
        try:
            answers = session.reader.run_all(asked)
        except ServerUnavailable as error:  # none of these
            if session.engine.slots is None:
                raise
            trouble, answers = error, [error] * len(some)
        for name, state in zip(some, answers, strict=True):
            if isinstance(state, AtomqError):
                errors[name] = state
                found = copied(session, name) if name in names else ()
            else:
                states.append(state)
                found = state.partitions
            if found:
                partitions[name] = found
                left += [part for part in found if part not in asked_for]
                asked_for.update(found)
    if trouble is not None and not states:
        raise trouble
    for name, why in errors.items():
        session.out.error(f"{name}: {why}")
    return states, partitions, max(map(exit_of, errors.values()), default=Exit.OK)


def copied(session: Session, queue: str) -> tuple[str, ...]:
    """The partitions of a queue whose first one is away, as the others know; () if none does."""
    from atomq import flows
    from atomq.partitions import PartitionMap

    if session.engine.slots is None:
        return ()
    record = session.reader.run(flows.copied_record(session.keys, queue))
    return PartitionMap.names_of(queue, record)


def spread(session: Session, queue: str) -> list[QueueKeys]:
    """The keys of a queue, and those of its other partitions."""
    from atomq import calls

    try:
        names = session.reader.run(calls.inspect(session.keys(queue))).partitions
    except ServerUnavailable:
        names = copied(session, queue)
        if not names:
            raise
    return [session.keys(name) for name in names or (queue,)]


def over(
    session: Session, parts: Sequence[QueueKeys], do: Callable[[QueueKeys], T]
) -> tuple[dict[QueueKeys, T], int]:
    """Do it to all partitions of a queue: what each answered, and the exit code of what failed.

    Those of a node that is away are named on stderr, and the node is waited for once. Raises
    `ServerUnavailable` if none answered.
    """
    from atomq import calls

    found: dict[QueueKeys, T] = {}
    away: dict[Place | None, ServerUnavailable] = {}
    slots = session.engine.slots
    for keys in parts:
        place = None if slots is None else slots.owner(keys.slot)
        if place not in away:
            try:
                if slots is not None and len(parts) > 1 and place in slots.doubted:
                    look = calls.partitions(keys)
                    look.brief = True  # it was waited for when the partitions were read
                    session.engine.run(look)
                found[keys] = do(keys)
                continue
            except ServerUnavailable as error:
                if len(parts) == 1:
                    raise
                away[place] = error
        session.out.error(f"{keys.name}: {away[place]}")
    if not found:
        raise next(iter(away.values()))
    return found, Exit.UNREACHABLE if away else Exit.OK
