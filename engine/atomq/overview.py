"""The whole fleet in numbers: all queues of the register, and the processes that consume.

Nothing is searched for: the register names the queues (1,000 a call), and `lua/overview.lua` reads
up to 200 of them in one call: about a millisecond of the server if most of them are idle, 5 if each
has messages in every state. 200 queues are two server calls. In a cluster each queue is a call of
its own, and those of a page go to all nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atomq import arguments, calls
from atomq.calls import Call, Process, QueueOverview
from atomq.errors import AtomqError, InvalidArgument
from atomq.flows import Flow, Together, ask
from atomq.keys import QueueKeys, RegisterKeys

AT_ONCE = 200  # queues that one script reads


@dataclass
class Overview:
    """What `Engine.overview` answers."""

    queues: list[QueueOverview] = field(default_factory=list)
    """In the order of their names, as bytes."""
    unreadable: dict[str, AtomqError] = field(default_factory=dict)
    """The queues that could not be read, and why: a key of another type, a node that is away."""
    processes: list[Process] = field(default_factory=list)
    """Those that consume, 1,000 at most."""
    alive: int = 0
    """How many processes consume."""
    next: str = ""
    """The `after` of the next page; "": this was the last one."""

    def consumers_of(self, queue: str) -> list[Process]:
        """The processes that consume a queue. Each names its first 100 queues."""
        return [process for process in self.processes if queue in process.queues]


def overview(
    keys_of: Callable[[str], QueueKeys],
    register: RegisterKeys,
    names: Sequence[str] | None,
    after: str,
    limit: int | None,
) -> Flow[Overview]:
    """See `Engine.overview`."""
    found = Overview()
    if limit is not None:
        arguments.whole("limit", limit, 1, calls.MOST)
    if names is not None:
        yield from _read(keys_of, list(names), found)
        return found
    while True:
        most = limit or calls.MOST
        page = yield from ask(calls.roster(register, after=after, limit=most))
        found.processes, found.alive = page.processes, page.alive
        yield from _read(keys_of, page.queues, found)
        if len(page.queues) < most:
            return found
        after = page.queues[-1]
        if limit is not None:
            found.next = after
            return found


def _read(keys_of: Callable[[str], QueueKeys], names: Sequence[str], found: Overview) -> Flow[None]:
    queues: list[QueueKeys] = []
    for name in names:
        try:
            queues.append(keys_of(name))
        except InvalidArgument as error:  # it is the name of a queue in another layout
            found.unreadable[name] = error
    for i in range(0, len(queues), AT_ONCE):
        page = queues[i : i + AT_ONCE]
        groups = [[queue] for queue in page] if page[0].layout == "cluster" else [page]
        asked: list[Call[list[QueueOverview | AtomqError]]] = list(map(calls.overview, groups))
        answers = yield from ask(Together(asked))
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, AtomqError):
                if len(group) > 1:  # it is the server that is in trouble
                    raise answer
                found.unreadable[group[0].name] = answer
                continue
            for queue, each in zip(group, answer, strict=True):
                if isinstance(each, AtomqError):
                    found.unreadable[queue.name] = each
                else:
                    found.queues.append(each)
    if queues and not found.queues:
        raise next(iter(found.unreadable.values()))
