"""What this process writes into the register: the queues in use, and what it says of itself.

A process that consumes says every 20 s where it runs, what it consumes and what it works on, in one
call, by a thread, over a connection that it opens for that: in a cluster the register lives in one
slot, and no other call waits for the server of that. An entry that is not said again for a minute
is not there any more. What cannot be written is tried again later; nothing depends on it. In a
cluster, and behind Sentinels, the thread then looks at the nodes: see `heirs.py`.

An entry names a queue with partitions once, and says how many of them the process consumes. Among
the names of queues in use are those of partitions too: by these a queue is found while the node of
its first partition is away.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from atomq import calls, embedded, fork
from atomq.background import Background
from atomq.calls import Call
from atomq.errors import AtomqError, PermissionDenied
from atomq.heirs import Heirs
from atomq.keys import QueueKeys, RegisterKeys
from atomq.outage import Unreported
from atomq.retrying import Retry
from atomq.shared import members

log = logging.getLogger("atomq.register")

EVERY = 20.0  # seconds between two words of a process
KEPT_MS = 60_000
NOTED = 3600.0  # seconds after which the name of a queue in use is written again
REFUSED = 600.0  # seconds until what this user may not write is tried again
AGAIN = 60.0  # the same for the name of a queue that could not be written
PATIENCE = 5.0  # seconds for which a server that is away is tried
CLOSING = 1.0  # seconds that the end of a process waits for the last word
IDLE = 5.0  # seconds after which the thread looks whether anything needs it
QUEUES, WORK = 100, 20  # how many of each an entry names
LARGEST = 60_000  # bytes of an entry


Limits = Mapping[str, float]


class Work(NamedTuple):
    """One message that is held."""

    queue: str
    id: str
    seconds: float
    task: str = ""
    """Celery's name of it."""


class Holder(Protocol):
    """What holds messages for consumers of this process."""

    def working(self, most: int) -> tuple[int, list[Work]]:
        """How many it holds, and some of them, those that it holds longest first."""
        ...


class Consuming:
    """What one consumer of this process says. It counts as long as this object is kept."""

    __slots__ = (
        "__weakref__",
        "about",
        "asked",
        "concurrency",
        "holder",
        "idle",
        "limits",
        "listed",
        "queues",
    )

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        concurrency: int,
        holder: Holder,
        idle: Callable[[], float],
        limits: Limits,
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.limits = limits
        """What it holds messages to, see `Options.limits`."""
        self.about = about
        """What the entry says besides, as long as it consumes."""
        self.queues = queues
        self.concurrency = concurrency
        self.holder = holder
        self.idle = idle
        """How many seconds ago it sent a claim."""
        self.asked = 0.0  # when it began to ask for messages (monotonic)
        self.listed = False


class Register:
    """That of one server and `global_keyprefix`, as this process writes it. For any thread.

    The process has one entry there for each address that it consumes by, so all engines that reach
    this server alike share this object, whatever their other options are.
    """

    def __init__(
        self,
        keys: RegisterKeys,
        make_engine: Callable[[], Any],
        *,
        off: bool,
    ) -> None:
        self.keys = keys
        self._make_engine = make_engine
        self._off = off
        self._thread = Background(self._turn, "atomq-register", "writes the register", log, 1.0)
        self._begin()
        _registers.add(self)
        fork.renew(self)

    def _begin(self) -> None:
        self.about: dict[str, Any] = {}
        """What the entry says besides of the process, whatever its consumers say."""
        self.concurrency: Callable[[], int | None] = lambda: None
        """How much the process does at once, where its consumers do not know it."""
        self._started_ms = int(time.time() * 1000)
        self._thread.forked()
        self._wake = self._thread.wake
        self._engine: Any = None
        self._consumers: weakref.WeakSet[Consuming] = weakref.WeakSet()
        self._new: dict[str, QueueKeys] = {}
        self._gone: set[str] = set()
        self._next = self._not_before = 0.0
        self._listed = self._refused = False
        self._heirs, self._looks = Heirs(), False
        self._name = ""  # of its entry, while there is one

    def forked(self) -> None:
        """In a child process: it has not said anything yet."""
        fork.leak(self._engine)
        self._begin()

    # ── what others say ───────────────────────────────────────────────────────────────────────

    def note(self, queue: QueueKeys, *, gone: bool = False) -> None:
        """Have the name of a queue in use, or that is gone, written by the thread, soon."""
        with self._wake:
            if gone:
                self._new.pop(queue.name, None)
                self._gone.add(queue.name)
            else:
                self._gone.discard(queue.name)
                self._new[queue.name] = queue
            self._thread.rouse()

    def consume(self, consumer: Consuming) -> None:
        """This consumer asks for messages: it is there, while it does or its holder works."""
        consumer.asked = time.monotonic()
        if consumer.listed or self._off:  # as nearly always
            return
        with self._wake:
            consumer.listed = True
            self._consumers.add(consumer)
            if self._is_news(consumer):
                self._next = min(self._next, self._not_before)
            self._thread.rouse()

    def change(self, consumer: Consuming, queues: Sequence[QueueKeys]) -> None:
        """From now on this consumer consumes these queues, if any."""
        if self._off:
            return
        with self._wake:
            consumer.queues, consumer.listed, consumer.asked = queues, True, time.monotonic()
            if queues:
                self._consumers.add(consumer)
            else:
                self._consumers.discard(consumer)
            self._next = min(self._next, self._not_before)
            if queues or self._thread.runs:
                self._thread.rouse()

    def look(self) -> None:
        """A call needed a script that its node did not know: it may lack others, for other users.

        If this process consumes, the thread looks at all nodes soon.
        """
        with self._wake:
            if self._consumers and not self._looks:
                self._looks = True
                self._thread.rouse()

    def _is_news(self, consumer: Consuming) -> bool:
        now = time.monotonic()
        return not self._listed or any(queue.noted < now for queue in consumer.queues)

    def leave(self, consumers: Iterable[Consuming]) -> None:
        """These consume no more; behind the last one the entry is taken out."""
        for one in consumers:
            self.change(one, ())

    def left_by(self, holder: Holder) -> None:
        """What this holder held for consumes no more; done when this returns, within a second."""
        self.leave([one for one in members(self._consumers) if one.holder is holder])
        if not self._consumers:
            self._thread.join(CLOSING)

    def close(self) -> None:
        """The process ends: what is to be said is said now."""
        with self._wake:
            self._next = 0.0
            for one in list(self._consumers):
                one.listed = False
            self._consumers.clear()
            self._thread.close()
        self._thread.join(CLOSING)

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> bool:
        """Say what is due, then wait for the next thing; False once nothing is left to be said."""
        with self._wake:
            new, self._new = self._new, {}
            gone, self._gone = self._gone, set()
            looks, self._looks = self._looks, False
            consumers = self._there()
            # If it is not the last turn, what it says may be what the end takes back.
            is_last = self._thread.closing
            is_due = is_last or time.monotonic() >= self._next
            if is_due:  # set before it is said: what comes meanwhile may bring it forward
                self._next = time.monotonic() + EVERY
        says = new or gone or (is_due and (consumers or self._listed))
        prepares = consumers and (is_due or looks) and not is_last
        if says:
            self._say(new, gone, consumers)
        if prepares:
            self._prepare(anew=looks)
        if says or prepares:  # nothing is said for 20 s: no connection idles so long
            self._connected().close()
        with self._wake:
            if self._consumers and not self._listed:  # they came while it was taken out
                self._next = min(self._next, self._not_before)
            more = self._new or self._gone or self._looks
            if (is_last and self._thread.closing) or not (more or self._consumers or self._listed):
                self._engine = None
                self._thread.ended()
                return False
            if not (more or self._thread.closing):
                self._wake.wait(max(0.0, min(self._next - time.monotonic(), IDLE)))
        return True

    def _there(self) -> list[Consuming]:
        """The consumers that count. One that asks no more and holds nothing does not."""
        found, now = [], time.monotonic()
        for one in members(self._consumers):
            idle = min(one.idle(), now - one.asked)
            if idle < KEPT_MS / 1000 or one.holder.working(0)[0]:
                found.append(one)
            else:
                self._consumers.discard(one)
                one.listed = False
        return found

    def _say(
        self, new: Mapping[str, QueueKeys], gone: Collection[str], consumers: Sequence[Consuming]
    ) -> None:
        now = time.monotonic()
        consumed = {queue.name: queue for one in consumers for queue in one.queues}
        names = {n: q for n, q in (consumed | dict(new)).items() if n in new or q.noted < now}
        entry = self._entry(consumers, consumed.values()) if consumers else ""
        try:
            for some in _batches(sorted(gone)):
                self._run(calls.register(self.keys, some, gone=True), leaving=self._thread.closing)
            process = self._named() if consumers or self._listed else ""
            for some in list(_batches(sorted(names))) or [()]:
                self._run(
                    calls.register(
                        self.keys,
                        some,
                        process=process,
                        alive_ms=KEPT_MS if consumers else 0,
                        entry=entry,
                    ),
                    leaving=self._thread.closing or not consumers,
                )
            self._not_before = 0.0
            self._listed, self._refused, noted = bool(consumers), False, NOTED
            self._name = self._name if consumers else ""
        except AtomqError as error:
            known, self._refused = self._refused, isinstance(error, PermissionDenied)
            level = logging.INFO if self._refused and not known else logging.DEBUG
            log.log(level, "the register could not be written: %s", error)
            pause, noted = (REFUSED, REFUSED) if self._refused else (EVERY, AGAIN)
            self._not_before = self._next = now + pause
            self._listed = self._listed and bool(consumers)
        for queue in names.values():
            queue.noted = max(queue.noted, now + noted)

    def _named(self) -> str:
        """The name of its entry: that of the process, or with a number behind it.

        Two addresses that differ may lead to one server: there neither hides the other's consumers.
        """
        with _making:
            taken = {one._name for one in members(_registers) if one is not self}
            name, number = self._name or fork.process(), 2
            while name in taken:
                name, number = f"{fork.process()}-{number}", number + 1
            self._name = name
            return name

    def _prepare(self, *, anew: bool) -> None:
        """Have the nodes of a cluster, or a master and its replicas, know the scripts."""
        engine = self._connected()
        try:
            replicas = engine.replicas()
            is_alone = not replicas and engine.slots is None
            # A server alone lacks scripts where it began anew, which a call of this process meets.
            nodes = [] if is_alone and not anew else [*engine.nodes(), *replicas]
            for node in self._heirs.to_look_at(nodes, anew=anew):
                if self._thread.closing or time.monotonic() >= self._next:
                    self._looks = anew  # a consumer left, say: what is left is for the next turn
                    break
                self._heirs.prepare(node)
        except AtomqError as error:
            log.debug("the nodes are not known: %s", error)

    def _connected(self) -> Any:
        if self._engine is None:
            engine = self._engine = self._make_engine()
            for standing in engine._pool.everywhere():
                standing.outage = Unreported(self.keys.name)
        return self._engine

    def _run(self, call: Call[int], *, leaving: bool) -> None:
        engine = self._connected()
        home = engine.address.directory
        if leaving and home is not None and embedded.status(home) is None:
            return  # it has been stopped: to say goodbye none is started
        engine.retry = Retry(attempts=0 if leaving else 3, budget=PATIENCE)
        engine.verified = True  # whether this user may do the rest is nothing to it
        engine.run(call)

    def _entry(self, consumers: Sequence[Consuming], consumed: Collection[QueueKeys]) -> str:
        wholes = {queue.name: queue.whole for queue in consumed}
        queues, parts = sorted({*wholes.values()}), Counter(wholes.values())
        spread = {whole for name, whole in wholes.items() if name != whole}
        holds, working = 0, list[Work]()
        for holder in {id(one.holder): one.holder for one in consumers}.values():
            count, some = holder.working(WORK)
            holds += count
            working += some
        working.sort(key=lambda work: -work.seconds)
        working = [work._replace(queue=wholes.get(work.queue, work.queue)) for work in working]
        limits, by_queue = _limits(consumers)
        entry: dict[str, Any] = {"kind": "atomq"}
        for one in consumers:
            entry.update(one.about)
        entry |= {
            **self.about,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_ms": self._started_ms,
            "version": _version(),
            "queue_count": len(queues),
            "limits": limits,
            "concurrency": self.concurrency() or sum(one.concurrency for one in consumers),
            "holds": holds,
            "clock_ms": int(time.time() * 1000),
        }
        most = QUEUES
        while True:
            work = [one._asdict() for one in working[: min(most, WORK)]]
            named = queues[:most]
            if by_queue:
                entry["limits_of"] = {name: by_queue[name] for name in named}
            if spread:
                entry["partitions"] = {name: parts[name] for name in named if name in spread}
            text = json.dumps({**entry, "queues": named, "working": work})
            if len(text) <= LARGEST or not most:
                return text
            most //= 2


@cache  # it is read from a file
def _version() -> str:
    return metadata.version("atomq")


def _limits(
    consumers: Sequence[Consuming],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The lowest limits of all consumers; and those of each queue, if they are not all the same."""
    all_of, by_queue = dict[str, float](), dict[str, dict[str, float]]()
    for one in consumers:
        for found in (all_of, *(by_queue.setdefault(queue.whole, {}) for queue in one.queues)):
            for name, value in one.limits.items():
                found[name] = min(found.get(name, value), value)
    alike = all(limits == all_of for limits in by_queue.values())
    return all_of, {} if alike else by_queue


def _batches(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[i : i + calls.MOST] for i in range(0, len(names), calls.MOST))


_registers: weakref.WeakSet[Register] = weakref.WeakSet()
_by_address: weakref.WeakValueDictionary[Any, Register] = weakref.WeakValueDictionary()
_making = fork.Lock()


def register_of(
    address: Any,
    keys: RegisterKeys,
    make_engine: Callable[[], Any],
    *,
    off: bool = False,
) -> Register:
    """The one of a server; the same for equal addresses. `off`: it has no other processes."""
    with _making:
        found = _by_address.get(address)
        if found is None:
            found = Register(keys, make_engine, off=off)
            _by_address[address] = found
        return found


@atexit.register
def close_all() -> None:
    """Say the last word in every register; what consumes again is there again."""
    for one in members(_registers):
        one.close()
