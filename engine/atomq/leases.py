"""What this process holds, kept alive in the background.

A lease means that its holder lives. So it is renewed by a thread with a connection of its own,
whatever the thread that works is doing, and through lost connections; and acks that wait for the
next claim are sent after a moment if no claim comes.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple, Protocol, TypeVar

from atomq import calls, flows, fork
from atomq.calls import Call, Claimed, Verdict, renewal_ms
from atomq.client import Engine
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, InvalidMessage, ServerUnavailable
from atomq.flows import Acks, Flow, clock
from atomq.keys import Place, QueueKeys
from atomq.message import Envelope
from atomq.node_threads import NodeThreads
from atomq.register import Work

log = logging.getLogger("atomq.leases")

ACK_DELAY = 0.005  # seconds an ack waits for a claim to ride along with
RETRY = 0.3  # seconds until something is tried again that met a server that was gone
PATIENCE = 1.0  # seconds that what was claimed may wait for its turn before it is given back
DRAIN = 1.0  # seconds, at least, for which nothing is claimed, to come to hold nothing
LEAVING = 2.0  # seconds, at most, for the nodes of a cluster to take what waits, at the end
ASK = 1.0  # seconds between two renewals of what is tracked, which may be cancelled
IDLE = 5.0  # seconds after which the thread ends when nothing is held


class Held(Protocol):
    """What holds a lease. When it is garbage, the lease is not renewed any more."""

    receipt: str
    settled: bool
    lost: bool
    cancelled: bool


class _Lease:
    __slots__ = ("begins", "claimed", "holder", "queue", "since", "started", "tracked")

    def __init__(
        self, queue: str, holder: weakref.ref[Any], since: float, *, tracked: bool
    ) -> None:
        self.queue = queue
        self.tracked = tracked
        self.holder = holder
        self.since = since  # by `clock`, no later than it was claimed or last renewed
        self.claimed = since
        self.started: float | None = None
        self.begins = 0.0  # not worked on before

    def counts(self) -> bool:
        """Whether an end of this process would be one of this message too."""
        return self.holder() is not None and self.begins <= time.monotonic()


class Waits(Protocol):
    """What the keeper gives back, so that others have it, when it has waited for too long."""

    @property
    def queue(self) -> QueueKeys:
        """One of the queues it is of, all of one node."""
        ...

    def waits_until(self) -> float:
        """When it is to be given back, by `clock`; inf: there is nothing."""
        ...

    def withdraw(self) -> list[str]:
        """What is given back now, by receipts or names; then `give_back`."""
        ...

    def give_back(self) -> Flow[None]:
        """Give back what was withdrawn."""
        ...


class Backlog:
    """What a consumer claimed at once and has not begun. It hands it out; the keeper gives it back.

    Each message leaves the deque once, taken by the one thread or the other: that decides.
    """

    def __init__(self, keeper: LeaseKeeper, queue: QueueKeys) -> None:
        self.queue = queue
        self._keeper = keeper
        self._batch: tuple[float, deque[Any]] = (0.0, deque())
        self._withdrawn: list[Any] = []
        self._sure = 0.0  # until when the leases of all of them last

    def fill(self, messages: Iterable[Held], since: float) -> None:
        """These wait to be begun, claimed at `since` (see `clock`) or later."""
        self._batch = clock(), deque(messages)
        self._sure = since + self._keeper.lease_ms / 1000
        if len(self._batch[1]) > 1:
            self._keeper.watch(self)

    def next(self) -> Any:
        """The next one to begin with; None: there is none that this process surely holds.

        What remains then is to be given back: this process stood still for longer than a lease.
        """
        waiting = self._batch[1]
        if not waiting:
            return None
        try:
            message = waiting.popleft()
            while message.lost:
                message = waiting.popleft()
        except IndexError:
            return None
        if clock() > self._sure and self._keeper.lapsed(message.receipt):
            waiting.appendleft(message)
            return None
        return message

    def take(self) -> list[Any]:
        """All that waits, in its order, and what the keeper is about to give back.

        That is given back by both then: this process may end before the keeper has done it.
        """
        with self._keeper.lock:
            return self._drawn() + self._withdrawn

    def _drawn(self) -> list[Any]:
        waiting, taken = self._batch[1], []
        while waiting:
            try:
                taken.append(waiting.pop())
            except IndexError:
                break
        return taken[::-1]

    def waits_until(self) -> float:
        """When what waits is to be given back; inf: nothing waits."""
        filled, waiting = self._batch
        return filled + PATIENCE if waiting else inf

    def withdraw(self) -> list[str]:
        """The receipts of all that waits, which is not handed out any more; then `give_back`."""
        with self._keeper.lock:
            self._withdrawn += [message for message in self._drawn() if not message.lost]
            receipts = [message.receipt for message in self._withdrawn]
        if receipts:
            log.info("%d messages of %s waited: given back", len(receipts), self.queue.name)
        return receipts

    def give_back(self) -> Flow[None]:
        """Give back what was withdrawn: to the front, in its order, uncounted."""
        messages = self._withdrawn
        yield from flows.give_back(self.queue, [(message.receipt, "") for message in messages])
        for message in messages:
            message.settled = True
        self._withdrawn = []


class _Later(NamedTuple):
    """What is still to be settled, by a flow."""

    queue: str | None
    receipts: Sequence[str]
    flow: Callable[[], Flow[Any]]


_Q = TypeVar("_Q", str, _Later)


class LeaseKeeper:
    """The leases and the waiting acks of one engine's process. Its thread starts when needed."""

    def __init__(self, engine: EngineBase) -> None:
        options = engine.options
        self.lease_ms = options.lease_ms
        self.renew_ms = renewal_ms(self.lease_ms)
        self.max_lease = options.max_lease
        self.acks = Acks(waiting=self._send_soon, lost=_too_late)
        # Tried again by the loop below, at its own pace, so not by the engine.
        self._engine = Engine(engine.address)
        if engine.slots is not None:
            self._engine.follow(engine.slots)
        self._engine.retry = type(engine.retry)(attempts=0, budget=self.renew_ms / 1000)
        self._begin()
        self.register = engine.register
        self.on_cancelled: Callable[[Any], object] | None = None
        """Hears of each holder whose message was cancelled, from the thread of the leases."""
        engine.at_close.append(self.close)
        _keepers.add(self)
        fork.renew(self)

    def _begin(self) -> None:
        self.process = object()
        """Another one in a forked child: what was claimed elsewhere belongs to another process."""
        self._leases: dict[str, _Lease] = {}
        self._troubled: set[tuple[str, str]] = set()
        self._later: deque[_Later] = deque()
        self._nodes = NodeThreads()
        self._unrenewed: set[str] = set()
        """Queues of a cluster whose node is in trouble."""
        self.lock = threading.RLock()
        """Held for a moment; in a forked child, another one."""
        self._wake = threading.Condition(self.lock)
        self._thread: threading.Thread | None = None
        self._closed = self._acking = False
        self._backlogs: weakref.WeakSet[Waits] = weakref.WeakSet()
        self._renew_at = self._retry_at = self._flush_at = self._look_at = self._ask_at = inf
        # The message that was alone when it came, and whether it must stay so.
        self._alone: tuple[str, str, bool] | None = None
        self._accompanied: list[tuple[str, str]] = []
        self._drains_until = self._rests_until = 0.0

    # ── what holders say ──────────────────────────────────────────────────────────────────────

    def hold(self, claim: Claimed, holders: Sequence[Held], since: float | None = None) -> bool:
        """Renew what a claim got from now on; to be called before the first is handed over.

        `holders` stand for its deliveries, in their order. They were claimed at `since` (see
        `clock`) or later, by default just now. False if one must be alone and would not be: then
        all of them are to be given back.
        """
        if not holders:
            return True
        if since is None:
            since = clock()
        with self.lock:
            strictly = claim.alone and claim.deliveries[0].spared > 1
            if self._leases and (self._goes_alone() or (strictly and self._holds())):
                return False
            if claim.alone or self._alone is not None:
                self._note_alone(claim, strictly)
            for delivery, one in zip(claim.deliveries, holders, strict=True):
                tracked = delivery.word is not delivery.receipt
                lease = _Lease(delivery.queue, weakref.ref(one), since, tracked=tracked)
                self._leases[one.receipt] = lease
                if tracked and self._ask_at == inf:
                    self._ask_at = time.monotonic() + ASK
                    self._rouse()
            if self._renew_at == inf:
                self._renew_at = time.monotonic() + self.renew_ms / 1000
                self._rouse()
        return True

    def watch(self, backlog: Waits, patience: float = PATIENCE) -> None:
        """Give back what waits in it for too long: look in so many seconds whether it does."""
        if backlog not in self._backlogs:
            with self._wake:
                self._backlogs.add(backlog)
        if self._look_at > time.monotonic() + patience:
            with self._wake:
                self._look_at = time.monotonic() + patience
                self._rouse()

    def _note_alone(self, claim: Claimed, strictly: bool) -> None:
        before, self._alone = self._alone, None
        if before is not None and before[1] in self._leases:
            self._accompanied.append(before[:2])
        if not claim.alone:
            return
        queue, receipt = claim.deliveries[0].queue, claim.deliveries[0].receipt
        if strictly:
            self._drains_until = 0.0
        if self._leases and self._holds():
            self._accompanied.append((queue, receipt))
        else:
            self._alone = (queue, receipt, strictly)

    def put_off(self, receipt: str, seconds: float) -> None:
        """It is not worked on for so long: until then it is no company for others."""
        lease = self._leases.get(receipt)
        if lease is not None:
            lease.begins = time.monotonic() + seconds

    # ── what a consumer may claim beside it: see `flows.Company` ──────────────────────────────

    def company(self) -> int:
        """What a claim that is sent now says of what is held here: see `calls.claim`."""
        if not (self._leases and self._holds()):
            self._drains_until = 0.0
            return calls.SOLE
        ready = time.monotonic() >= max(self._drains_until, self._rests_until)
        return int(DRAIN * 1000) if ready else calls.HOLDS

    def drain(self, seconds: float) -> None:
        """Claim nothing for so long, so as to come to hold nothing.

        Should that be in vain, as much time passes with work before the next one.
        """
        now = time.monotonic()
        if now >= self._rests_until:
            self._drains_until = now + seconds
            self._rests_until = self._drains_until + seconds

    def stands_still(self) -> bool:
        """Whether nothing is to be claimed now: one message is alone, or is to be."""
        # Asked at every turn of an event loop: mostly nothing is alone, and nothing drains.
        if not self._leases or (self._alone is None and not self._drains_until):
            return False
        return self._goes_alone() or (time.monotonic() < self._drains_until and self._holds())

    def accompanied(self) -> list[Call[Any]]:
        """To be said to the server: what was alone and is not any more.

        Of a cluster nothing: its node may be away, so a thread of that node says it.
        """
        found: list[Call[Any]] = []
        while self._accompanied:
            queue, receipt = self._accompanied.pop()
            call = self._extending(queue, [receipt], beside=True)
            if self._engine.slots is None:
                found.append(call)
            else:
                self._settle_later(queue, (), partial(_beside, call), within=0.0)
        return found

    def _holds(self) -> bool:
        return any(lease.counts() for lease in self._leases.copy().values())

    def _goes_alone(self) -> bool:
        if self._alone is None or not self._alone[2]:
            return False
        lease = self._leases.get(self._alone[1])
        return lease is not None and lease.holder() is not None

    def start(self, receipt: str) -> None:
        """The work begins now: `max_lease` counts from here, once."""
        if self.max_lease is not None:
            lease = self._leases.get(receipt)
            if lease is not None and lease.started is None:
                lease.started = time.monotonic()

    def drop(self, receipts: Iterable[str]) -> None:
        """These are not held any more."""
        for receipt in receipts:
            self._leases.pop(receipt, None)

    def ack_later(self, queue: QueueKeys, word: str) -> None:
        """Ack with the next claim on the queue, or in 5 ms. It is not held any more.

        `word` is what acks it: see `Delivery.word`.
        """
        self._leases.pop(word.partition(" ")[0], None)
        self.acks.add(queue.name, word)

    def _send_soon(self) -> None:
        # While acks come all the time the thread looks by itself every few milliseconds: rousing it
        # costs the thread that works more than the ack does.
        self._acking = True
        if self._flush_at != inf:
            return
        with self._wake:
            if self._flush_at == inf:
                self._flush_at = time.monotonic() + ACK_DELAY
                self._rouse()

    def settle(self, receipts: Sequence[str], flow: Callable[[], Flow[Any]]) -> bool:
        """Settle what is held by a flow; whether that was done now.

        If the server is gone it is done by the thread, as soon as the server is back.
        """
        lease = self._leases.get(receipts[0]) if receipts else None
        queue = lease.queue if lease is not None else None
        if self._is_in_doubt(queue):
            self._settle_later(queue, receipts, flow)
            return False
        try:
            self._engine.run(flow())
        except ServerUnavailable as error:
            log.info("%d messages are settled later: %s", len(receipts), error)
            self._settle_later(queue, receipts, flow)
            return False
        self.drop(receipts)
        return True

    def _is_in_doubt(self, queue: str | None) -> bool:
        """Whether the node of a queue gave no answer: of a cluster, no caller waits for it."""
        slots = self._engine.slots
        if slots is None or queue is None:
            return False
        return slots.owner(self._engine.keys(queue).slot) in slots.doubted

    def _settle_later(
        self,
        queue: str | None,
        receipts: Sequence[str],
        flow: Callable[[], Flow[Any]],
        within: float = RETRY,
    ) -> None:
        with self._wake:
            self._later.append(_Later(queue, receipts, flow))
            self._flush_at = min(self._flush_at, time.monotonic() + within)
            self._rouse()

    def abandoned(self) -> list[tuple[QueueKeys, list[str]]]:
        """Receipts whose holder is garbage, by queue. They are forgotten here."""
        found: dict[str, list[str]] = {}
        for receipt, lease in self._leases.copy().items():
            if lease.holder() is None and self._leases.pop(receipt, None) is not None:
                found.setdefault(lease.queue, []).append(receipt)
        return [(self._engine.keys(queue), receipts) for queue, receipts in found.items()]

    def lapsed(self, receipt: str) -> bool:
        """Whether its lease may have ended: it is not known to have been renewed since."""
        lease = self._leases.get(receipt)
        return lease is None or clock() - lease.since > self.lease_ms / 1000

    @property
    def holds_any(self) -> bool:
        """Whether anything is renewed; its holder may be garbage."""
        return bool(self._leases)

    def working(self, most: int) -> tuple[int, list[Work]]:
        """How many are held, and what those are that are held longest; see `register.Holder`."""
        now, held = clock(), [one for one in self._leases.copy().values() if one.holder()]
        oldest = heapq.nsmallest(most, held, key=lambda lease: lease.claimed)
        return len(held), [_work(lease, now) for lease in oldest]

    def holds(self, receipt: str) -> bool:
        """Whether this receipt is still renewed."""
        return receipt in self._leases

    def close(self) -> None:
        """Send the acks that wait and stop. What is held is not renewed any more."""
        with self._wake:
            self._closed = True
            self._leases.clear()
            self._renew_at = self._retry_at = self._flush_at = self._look_at = self._ask_at = inf
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2)
        self.register.left_by(self)
        self._flush(LEAVING)
        self._engine.close()

    def send(self) -> None:
        """Send the acks that wait, and what is given back, now. What cannot be sent is kept."""
        if self.acks.queues() or self._later:
            self._flush(LEAVING)

    def forked(self) -> None:
        """In a child process: everything held is the parent's."""
        self._begin()

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _rouse(self) -> None:
        self._closed = False
        if self._thread is None:
            # It holds the keeper weakly between two turns: an engine that is not used may go.
            run = weakref.WeakMethod(self._turn)
            self._thread = threading.Thread(
                target=_loop, args=(run,), name="atomq-leases", daemon=True
            )
            self._thread.start()
        else:
            self._wake.notify()

    def _turn(self) -> bool:
        """Do what is due, then wait for the next thing; False once there is nothing to wait for."""
        now = time.monotonic()
        if now >= self._look_at:
            self._give_back_waiting()
        if now >= self._flush_at:
            with self._wake:
                self._flush_at = now + ACK_DELAY if self._acking else inf
                self._acking = False
            oldest = self.acks.since()
            if oldest + ACK_DELAY > now and not self._later:
                # A claim may take them along before their time is up.
                with self._wake:
                    self._flush_at = min(self._flush_at, max(oldest + ACK_DELAY, now + 0.001))
            elif not self._flush():
                with self._wake:
                    self._flush_at = now + RETRY
        if now >= self._renew_at:
            again = self._renew()
            with self._wake:
                self._renew_at = now + again if self._leases else inf
        elif now >= self._retry_at:
            with self._wake:
                queues, self._unrenewed, self._retry_at = self._unrenewed, set(), inf
            self._extend({q: r for q, r in self._held().items() if q in queues})
        if now >= self._ask_at:
            self._ask()
        with self._wake:
            next_at = min(self._renew_at, self._retry_at, self._flush_at, self._look_at)
            next_at = min(next_at, self._ask_at)
            idle = next_at == inf
            seconds = next_at - time.monotonic()
            if not self._closed and seconds > 0:
                roused = self._wake.wait(min(seconds, IDLE))
                idle = idle and not roused
            if self._closed or idle:
                self._thread = None
                return False
            return True

    def _flush(self, wait: float = 0.0) -> bool:
        """Send what waits to be sent; whether all was. `wait`: seconds, for the nodes of a cluster.

        What a node does not take is tried again by the thread, some time later.
        """
        if self._engine.slots is None:
            return self._flush_some(self.acks.queues(), list(self._later))
        acks, later = self._by_node(self.acks.queues()), self._by_node(self._later)
        under_way = []
        for place in {**acks, **later}:
            some = partial(self._flush_at_node, acks.get(place, []), later.get(place, []))
            under_way.append(self._nodes.do(place, "acks", some))
        until = time.monotonic() + wait
        for done in under_way if wait else ():
            if done is not None:
                done.wait(max(0.0, until - time.monotonic()))
        return None not in under_way

    def _flush_at_node(self, names: Sequence[str], later: Sequence[_Later]) -> None:
        if not self._flush_some(names, later):
            with self._wake:
                self._flush_at = min(self._flush_at, time.monotonic() + RETRY)
                if not self._closed:
                    self._rouse()

    def _flush_some(self, names: Sequence[str], later: Sequence[_Later]) -> bool:
        sent = True
        for name in names:
            try:
                self._engine.run(flows.flush(self._engine.keys(name), self.acks))
                self._well("acks", name)
            except AtomqError as error:  # which may be the trouble of this one queue
                self._trouble(error, "acks", name, "acks of %s are kept, to be sent: %s", name)
                sent = False
        for each in later:
            try:
                self._engine.run(each.flow())
            except ServerUnavailable:
                return False
            except AtomqError as error:
                log.warning("%d messages were not settled: %s", len(each.receipts), error)
            with self._wake, contextlib.suppress(ValueError):  # at exit two threads do this
                self._later.remove(each)
            self.drop(each.receipts)
        return sent

    def _by_node(self, items: Iterable[_Q]) -> dict[Place | None, list[_Q]]:
        """Queues, or what belongs to one, by the node of the cluster that serves it."""
        found: dict[Place | None, list[_Q]] = {}
        slots = self._engine.slots
        for item in items:
            name = item if isinstance(item, str) else item.queue
            place = None
            if slots is not None and name is not None:
                place = slots.owner(self._engine.keys(name).slot)
            found.setdefault(place, []).append(item)
        return found

    def _give_back_waiting(self) -> None:
        """Give back what was claimed a second ago and is not begun: others may be idle."""
        now = time.monotonic()
        with self._wake:
            self._look_at = inf  # first: what is filled from here on is watched anew
            backlogs = list(self._backlogs)
        for backlog in backlogs:
            left = backlog.waits_until() - clock()
            if left <= 0 and (receipts := backlog.withdraw()):
                with self._wake:
                    self._later.append(_Later(backlog.queue.name, receipts, backlog.give_back))
                    self._flush_at = now
            elif 0 < left < inf:
                with self._wake:
                    self._look_at = min(self._look_at, now + left)

    def _renew(self) -> float:
        """Extend everything held; seconds until the next time."""
        return self._extend(self._held())

    def _ask(self) -> None:
        """Renew what is tracked, so as to hear soon whether it was cancelled."""
        leases = self._leases
        tracked = {
            queue: some
            for queue, receipts in self._held().items()
            if (some := [r for r in receipts if (lease := leases.get(r)) and lease.tracked])
        }
        with self._wake:
            self._ask_at = time.monotonic() + ASK if tracked else inf
        self._extend(tracked)

    def _held(self) -> dict[str, list[str]]:
        """The receipts whose leases are to be renewed, by queue."""
        by_queue: dict[str, list[str]] = {}
        now, asked = time.monotonic(), clock()
        for receipt, lease in self._leases.copy().items():
            if lease.holder() is None:
                if asked - lease.since > self.lease_ms / 1000:
                    self.drop([receipt])  # its lease has ended
            elif lease.started and self.max_lease and now - lease.started > self.max_lease:
                if (holder := lease.holder()) is not None:
                    text = "%r was worked on for longer than max_lease: no longer held"
                    log.warning(text, holder, extra=_extra(holder, lease.queue))
                self.drop([receipt])
            else:
                by_queue.setdefault(lease.queue, []).append(receipt)
        return by_queue

    def _extend(self, by_queue: dict[str, list[str]]) -> float:
        """Extend these; seconds until the next time. Of a cluster each node has its own thread."""
        soon, pause = min(0.5, self.renew_ms / 3000), self.renew_ms / 1000
        if self._engine.slots is None:
            return soon if self._extend_some(by_queue) else pause
        for place, queues in self._by_node(by_queue).items():
            some = {queue: by_queue[queue] for queue in queues}
            if self._nodes.do(place, "leases", partial(self._extend_at_node, some)) is None:
                self._retry_soon(queues)
        return pause

    def _extend_at_node(self, by_queue: dict[str, list[str]]) -> None:
        if left := self._extend_some(by_queue):
            self._retry_soon(left)

    def _retry_soon(self, queues: Iterable[str]) -> None:
        with self._wake:
            self._unrenewed.update(queues)
            soon = time.monotonic() + min(0.5, self.renew_ms / 3000)
            self._retry_at = min(self._retry_at, soon)
            if not self._closed:
                self._rouse()

    def _extend_some(self, by_queue: dict[str, list[str]]) -> list[str]:
        """Extend these, of one server; the queues that have to be tried again."""
        left = []
        for queue, receipts in by_queue.items():
            for batch in flows.batches(receipts):
                asked = clock()
                try:
                    verdicts = self._engine.run(self._extending(queue, batch))
                    self._well("leases", queue)
                except AtomqError as error:
                    text = "%d leases of %s not renewed yet: %s"
                    self._trouble(error, "leases", queue, text, len(batch), queue)
                    left.append(queue)
                    break  # the other queues may fare better
                pairs = list(zip(batch, verdicts, strict=True))
                kept = Verdict.DONE, Verdict.CANCELLED
                self.lost([receipt for receipt, v in pairs if v not in kept])
                self.cancelled([receipt for receipt, v in pairs if v is Verdict.CANCELLED])
                for receipt in batch:
                    if renewed := self._leases.get(receipt):
                        renewed.since = asked
        return left

    def _extending(
        self, queue: str, receipts: Sequence[str], *, beside: bool = False
    ) -> Call[list[Verdict]]:
        lease_ms, renew_ms = self.lease_ms, self.renew_ms
        keys = self._engine.keys(queue)
        return calls.extend(keys, receipts, lease_ms=lease_ms, renew_ms=renew_ms, beside=beside)

    def _trouble(self, error: AtomqError, what: str, queue: str, *words: Any) -> None:
        """Log it once: it is tried again several times a second. The engine logs an outage."""
        known = isinstance(error, ServerUnavailable) or (what, queue) in self._troubled
        log.log(logging.DEBUG if known else logging.WARNING, *words, error)
        if not isinstance(error, ServerUnavailable):
            self._troubled.add((what, queue))

    def _well(self, what: str, queue: str) -> None:
        if (what, queue) in self._troubled:
            self._troubled.discard((what, queue))
            log.info("%s of %s are well again", what, queue)

    def cancelled(self, receipts: Iterable[str]) -> None:
        """The messages of these receipts were cancelled: say so to those that work on them, once.

        They are held on to until that is over.
        """
        for receipt in receipts:
            lease = self._leases.get(receipt)
            holder: Any = lease.holder() if lease is not None else None
            if lease is not None and holder is not None and not holder.cancelled:
                holder.cancelled = True
                log.warning("%r was cancelled", holder, extra=_extra(holder, lease.queue))
                if (tell := getattr(holder, "_on_cancelled", None)) is not None:
                    tell()
                if self.on_cancelled is not None:
                    self.on_cancelled(holder)

    def lost(self, receipts: Iterable[str]) -> None:
        """These receipts are not live: mark their messages, once."""
        for receipt in receipts:
            lease = self._leases.pop(receipt, None)
            holder = lease.holder() if lease is not None else None
            if lease is not None and holder is not None and not (holder.lost or holder.settled):
                holder.lost = True
                text = "lost the lease of %r: another consumer has the message"
                log.warning(text, holder, extra=_extra(holder, lease.queue))


def _beside(call: Call[Any]) -> Flow[None]:
    try:
        yield from flows.ask(call)
    except ServerUnavailable:
        raise
    except AtomqError as error:
        log.info("a message counts as alone and is not: %s", error)


def _work(lease: _Lease, now: float) -> Work:
    """A message as the register names it. It may be settled, or dropped, meanwhile."""
    holder: Any = lease.holder()
    delivery: Any = getattr(holder, "_delivery", holder)
    try:
        envelope = Envelope(delivery.envelope.raw)
        name, task = envelope.id, str(envelope.headers.get("task") or "")
    except (AttributeError, InvalidMessage):
        name = task = ""
    return Work(lease.queue, name[:256], round(now - lease.claimed, 3), task[:256])


def _too_late(queue: str, receipts: Sequence[str]) -> None:
    text = "a message of %r went to another consumer: %s was acked too late"
    for receipt in receipts:
        log.warning(text, queue, receipt.partition(" ")[0], extra={"queue": queue})


def _extra(holder: Any, queue: str) -> dict[str, Any]:
    """What a log record about a message has besides its text; see `MessageBase.log_extra`."""
    found: dict[str, Any] = getattr(holder, "log_extra", {"queue": queue})
    return found


def _loop(run: weakref.WeakMethod[Callable[[], bool]]) -> None:
    while (turn := run()) is not None:
        try:
            if not turn():
                return
        except Exception:
            # Whatever this is, the leases are still held.
            log.exception("the thread that renews leases goes on")
            time.sleep(RETRY)
        del turn


_keepers: weakref.WeakSet[LeaseKeeper] = weakref.WeakSet()
_by_engine: weakref.WeakKeyDictionary[EngineBase, LeaseKeeper] = weakref.WeakKeyDictionary()
_making = fork.Lock()


def keeper(engine: EngineBase) -> LeaseKeeper:
    """The one keeper of an engine."""
    with _making:
        found = _by_engine.get(engine)
        if found is None:
            found = _by_engine[engine] = LeaseKeeper(engine)
        return found


@atexit.register
def _at_exit() -> None:
    for one in list(_keepers):
        one.send()
