"""The whole fleet in numbers: all queues of the register, and the processes that consume.

Nothing is searched for: the register names the queues (1,000 a call), and `lua/overview.lua` reads
up to 200 of them in one call: about a millisecond of the server if most of them are idle, 3 if each
has messages in every state. 200 queues are two server calls. In a cluster each queue is a call of
its own, and those of a page go to all nodes at once.

The register has the partitions of a queue among its names. They are one row here, and those that it
does not have are read in one more call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from atomq import arguments, calls, flows, merging
from atomq.calls import Call, Process, QueueOverview
from atomq.errors import AtomqError, InvalidArgument, ServerUnavailable
from atomq.flows import Flow, Together, ask
from atomq.keys import QueueKeys, RegisterKeys
from atomq.partitions import PartitionMap, queue_of

AT_ONCE = 200  # queues that one script reads


@dataclass
class Overview:
    """What `Engine.overview` answers."""

    queues: list[QueueOverview] = field(default_factory=list)
    """In the order of their names, as bytes. The partitions of a queue are one row."""
    unreadable: dict[str, AtomqError] = field(default_factory=dict)
    """The queues that could not be read, and why: a key of another type, a node that is away.

    So are the partitions that could not: the row of their queue is `unanswered` by them.
    """
    processes: list[Process] = field(default_factory=list)
    """Those that consume, 1,000 at most."""
    alive: int = 0
    """How many processes consume."""
    next: str = ""
    """The `after` of the next page; "": this was the last one."""

    wholes: dict[str, str] = field(default_factory=dict)
    """The queue of each partition that is in no row of its own."""

    def consumers_of(self, queue: str) -> list[Process]:
        """The processes that consume a queue. Each names its first 100 queues."""
        names = {queue, *(name for name, whole in self.wholes.items() if whole == queue)}
        return [process for process in self.processes if not names.isdisjoint(process.queues)]

    def consumed(self, process: Process) -> set[str]:
        """The queues that a process names, each once: partitions by the name of their queue."""
        return {self.wholes.get(name, name) for name in process.queues}


def overview(
    keys_of: Callable[[str], QueueKeys],
    register: RegisterKeys,
    names: Sequence[str] | None,
    after: str,
    limit: int | None,
) -> Flow[Overview]:
    """See `Engine.overview`."""
    found, read = Overview(), _Read(keys_of)
    if limit is not None:
        arguments.whole("limit", limit, 1, calls.MOST)
    if names is not None:
        arguments.texts("names", names, "names of queues")
        yield from read.these(names)
        yield from read.copies(names)
        read.check()
        yield from _fold(read, found, set(names), "")
        found.queues.sort(key=lambda row: names.index(row.name))
        return found
    first = after
    while True:
        most = limit or calls.MOST
        page = yield from ask(calls.roster(register, after=after, limit=most))
        found.processes, found.alive = page.processes, page.alive
        yield from read.these(page.queues, whole=_whole(page.queues))
        read.check()
        is_last = len(page.queues) < most
        if is_last or limit is not None:
            yield from _fold(read, found, set(), first)
            found.next = "" if is_last else page.queues[-1]
            return found
        after = page.queues[-1]


class _Read:
    """What was read of queues, by their names."""

    def __init__(self, keys_of: Callable[[str], QueueKeys]) -> None:
        self._keys_of = keys_of
        self.found: dict[str, QueueOverview] = {}
        self.unreadable: dict[str, AtomqError] = {}
        self.spread: dict[str, tuple[str, ...]] = {}
        """The partitions of queues whose first one, which has the record of them, is away."""

    def check(self) -> None:
        """Raise what came of it if none could be read, and there are some."""
        troubles = (e for e in self.unreadable.values() if not isinstance(e, InvalidArgument))
        if not self.found and (trouble := next(troubles, None)) is not None:
            raise trouble

    def these(self, names: Iterable[str], *, whole: Container[str] = ()) -> Flow[None]:
        """Read these, but those that were. `whole` are those that have no partitions."""
        queues: list[QueueKeys] = []
        for name in dict.fromkeys(names):
            if name in self.found or name in self.unreadable:
                continue
            try:
                queues.append(self._keys_of(name))
            except InvalidArgument as error:  # it is the name of a queue in another layout
                self.unreadable[name] = error
        for i in range(0, len(queues), AT_ONCE):
            yield from self._page(queues[i : i + AT_ONCE], whole)

    def copies(self, names: Iterable[str]) -> Flow[None]:
        """Read the other partitions of those that are away, where they have any."""
        for name in names:
            error = self.unreadable.get(name)
            if isinstance(error, ServerUnavailable) and self._keys_of(name).layout == "cluster":
                record = yield from flows.copied_record(self._keys_of, name)
                parts = PartitionMap.names_of(name, record)
                yield from self.these(parts)
                if not self.found.keys().isdisjoint(parts):
                    self.spread[name] = parts

    def _page(self, page: Sequence[QueueKeys], whole: Container[str]) -> Flow[None]:
        groups = [[queue] for queue in page] if page[0].layout == "cluster" else [page]
        asked: list[Call[list[QueueOverview | AtomqError]]] = [
            calls.overview(group, whole=whole) for group in groups
        ]
        try:
            answers = yield from ask(Together(asked))
        except ServerUnavailable as error:  # none of these was answered
            answers = [error] * len(groups)
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, AtomqError):
                if len(group) > 1:  # it is the server that is in trouble
                    raise answer
                self.unreadable[group[0].name] = answer
                continue
            for queue, each in zip(group, answer, strict=True):
                if isinstance(each, AtomqError):
                    self.unreadable[queue.name] = each
                else:
                    self.found[queue.name] = each


def _fold(read: _Read, found: Overview, named: Collection[str], after: str) -> Flow[None]:
    """Make rows of what was read. Partitions have one of their own only if they were `named`.

    A queue whose name was not read may have been on a page before, if the name is not behind
    `after`; else it is not in the register.
    """
    listed = {*read.found, *read.unreadable}
    roots = {queue_of(name) for name in listed} - listed - {""} if not named else set[str]()
    yield from read.these(sorted(roots))
    spread = dict(read.spread)
    for name, row in read.found.items():
        if row.partitions and not (named and row.partitions[0] != name):
            queue = row.partitions[0]
            spread[queue] = max(spread.get(queue, ()), row.partitions, key=len)
    yield from read.these(name for names in spread.values() for name in names)
    found.wholes = {
        name: queue for queue, names in spread.items() for name in names[1:] if name not in named
    }
    rows = {
        name: replace(row, partitions=())
        for name, row in read.found.items()
        if name in listed and name not in found.wholes and name not in spread
    }
    for queue, names in spread.items():
        if queue in listed or _key(queue) > _key(after):
            rows[queue] = merging.overview_of(queue, names, read.found)
    found.queues = [rows[name] for name in sorted(rows, key=_key)]
    found.unreadable = read.unreadable


def _whole(page: Sequence[str]) -> set[str]:
    """Those of a page of the register that have no partitions in it.

    They stand between `name#` and `name$`, so of the last names of a page it is not known.
    """
    queues = {queue_of(name) for name in page}
    return {
        name
        for name in page
        if name not in queues and not queue_of(name)
        if _key(name + "$") <= _key(page[-1])
    }


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
