"""What this process holds, kept alive in the background.

A lease means that its holder lives. So it is renewed by a thread with a connection of its own,
whatever the thread that works is doing, and through lost connections; and acks that wait for the
next claim are sent after a moment if no claim comes.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from atomq import flows, fork
from atomq.address import Address
from atomq.alone import Alone
from atomq.background import Background
from atomq.backlog import PATIENCE, Waits
from atomq.calls import Call, Claimed, renewal_ms
from atomq.client import Engine
from atomq.engine_base import EngineBase
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows import Flow, Rest, clock
from atomq.keys import QueueKeys
from atomq.lease import Held, Lease, log_extra, work_of
from atomq.node_threads import NodeThreads
from atomq.register import Work
from atomq.renewal import Renewal
from atomq.settling import RETRY, Later, Settling
from atomq.shared import members

log = logging.getLogger("atomq.leases")

LEAVING = 2.0  # seconds, at most, for the nodes of a cluster to take what waits, at the end
LEAST = 1.0  # seconds that an answer may take, however short the lease is
IDLE = 5.0  # seconds after which the thread ends when nothing is held


class LeaseKeeper:
    """The leases and the waiting acks of one engine's process. Its thread starts when needed."""

    def __init__(self, engine: EngineBase) -> None:
        # Tried again by the thread, at its own pace, so not by the engine.
        self._engine = Engine(_impatient(engine.address))
        if engine.slots is not None:
            self._engine.follow(engine.slots)
        self._thread = Background(self._turn, "atomq-leases", "renews leases", log, RETRY)
        options, thread = engine.options, self._thread
        self._renewal = Renewal(self._engine, options, thread, self.lost, self.cancelled)
        self._settling = Settling(self._engine, thread, self.drop, self._renewal.renew_ms)
        self.acks = self._settling.acks
        self.lease_ms, self.renew_ms = self._renewal.lease_ms, self._renewal.renew_ms
        self.max_lease = options.max_lease
        self._engine.retry = replace(
            engine.retry, attempts=0, budget=self.renew_ms / 1000, loaded=True
        )
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
        self._thread.forked()
        self.lock = self._thread.lock
        """Held for a moment; in a forked child, another one."""
        self._leases: dict[str, Lease] = {}
        nodes = NodeThreads()
        self._renewal.begin(self._leases, nodes)
        self._settling.begin(nodes)
        self.alone = Alone(self._leases, self._accompanied)
        """What a consumer may claim beside what is held: see `flows.Company`."""
        self._backlogs: weakref.WeakSet[Waits] = weakref.WeakSet()
        self._look_at = inf

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
        deliveries = claim.deliveries
        first = deliveries[0]
        with self.lock:
            leases, alone, renewal, ref = self._leases, self.alone, self._renewal, weakref.ref
            strictly = claim.alone and first.deliveries > 1 and first.spared > 1
            if leases and (alone.must_be() or (strictly and alone.holds())):
                return False
            if claim.alone or alone.message is not None:
                alone.note(claim, strictly)
            for delivery, one in zip(deliveries, holders, strict=True):
                receipt = delivery.receipt
                tracked = delivery.word is not receipt
                leases[receipt] = Lease(delivery.queue, ref(one), since, tracked)
                if tracked and renewal.ask_at == inf:
                    renewal.ask_soon()
            if clock() - since > self.renew_ms / 1000:
                renewal.renew_now()  # the answer lay unread: by the next turn they may have ended
            elif renewal.renew_at == inf:
                renewal.renew_in_time()
        return True

    def watch(self, backlog: Waits, patience: float = PATIENCE) -> None:
        """Give back what waits in it for too long: look in so many seconds whether it does."""
        if backlog not in self._backlogs:
            with self.lock:
                self._backlogs.add(backlog)
        if self._look_at > time.monotonic() + patience:
            with self.lock:
                self._look_at = time.monotonic() + patience
                self._thread.rouse()

    def put_off(self, receipt: str, seconds: float) -> None:
        """It is not worked on for so long: until then it is no company for others."""
        lease = self._leases.get(receipt)
        if lease is not None:
            lease.begins = time.monotonic() + seconds

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
        if self._leases.pop(word, None) is None:  # it is tracked, or was not held
            self._leases.pop(word.partition(" ")[0], None)
        self.acks.add(queue.name, word)

    def settle(self, receipts: Sequence[str], flow: Callable[[], Flow[Any]]) -> bool:
        """Settle what is held by a flow; whether that was done now.

        If the server is gone it is done by the thread, as soon as the server is back. Until then it
        is held: its lease is renewed, and `abandoned` does not name it.
        """
        leases = [lease for each in receipts if (lease := self._leases.get(each)) is not None]
        queue = leases[0].queue if leases else None
        holders = [lease.holder() for lease in leases]
        return self._settling.settle(queue, receipts, flow, holders)

    def is_in_doubt(self, queue: str) -> bool:
        """Whether what settles messages of a queue is left to the thread: its node is away.

        Of a cluster alone, where other nodes have messages that wait for their turn meanwhile.
        """
        return self._settling.is_in_doubt(queue)

    def settle_later(self, holders: Sequence[Any], rest: Rest[Any]) -> None:
        """Have the thread say what is left of a flow that settles these, of one queue.

        It does so as soon as the server is back. Until then they are held, as in `settle`.
        """
        for holder in holders:
            holder.settled = True
        receipts = [holder.receipt for holder in holders]
        self._settling.settle_later(holders[0]._queue.name, receipts, rest.flow, holders=holders)

    def do_later(self, queue: str, flow: Callable[[], Flow[Any]]) -> None:
        """Have the thread carry out a flow of a queue, as soon as the server is back."""
        self._settling.settle_later(queue, (), flow)

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
        return len(held), [work_of(lease, now) for lease in oldest]

    def holds(self, receipt: str) -> bool:
        """Whether this receipt is still renewed."""
        return receipt in self._leases

    def close(self) -> None:
        """Send the acks that wait and stop. What is held is not renewed any more.

        A server that is away has the seconds of `retry_budget` to come back and take them.
        """
        with self.lock:
            self._leases.clear()
            self._renewal.stop()
            self._settling.stop()
            self._look_at = inf
            self._thread.close()
        self._thread.join(2.0)
        self.register.left_by(self)
        self._settling.leave(LEAVING, self._engine.options.retry_budget)
        self._engine.close()

    def send(self) -> None:
        """Send the acks that wait, and what is given back, now. What cannot be sent is kept."""
        self._settling.send(LEAVING)

    def leave(self) -> None:
        """The process ends: send what waits, and once more what a call took along just now.

        A server that is away has the seconds of `retry_budget`, unless `close` gave it those.
        """
        patience = 0.0 if self._thread.closing else self._engine.options.retry_budget
        self._settling.leave(LEAVING, patience)

    def forked(self) -> None:
        """In a child process: everything held is the parent's."""
        self._begin()

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _turn(self) -> bool:
        """Do what is due, then wait for the next thing; False once there is nothing to wait for."""
        now = time.monotonic()
        if now >= self._look_at:
            self._give_back_waiting()
        if now >= self._settling.due():
            self._settling.turn(now)
        self._renewal.turn(now)
        with self._thread.wake:
            due = min(self._look_at, self._settling.due(), self._renewal.due())
            idle = due == inf
            seconds = due - time.monotonic()
            if not self._thread.closing and seconds > 0:
                roused = self._thread.wake.wait(min(seconds, IDLE))
                idle = idle and not roused
            if self._thread.closing or idle:
                self._thread.ended()
                self._engine.close()  # what idles: nothing is held
                return False
            return True

    def _give_back_waiting(self) -> None:
        """Give back what was claimed a second ago and is not begun: others may be idle."""
        now = time.monotonic()
        with self.lock:
            self._look_at = inf  # first: what is filled from here on is watched anew
            backlogs = list(self._backlogs)
        for backlog in backlogs:
            left = backlog.waits_until() - clock()
            if left <= 0 and (receipts := backlog.withdraw()):
                later = Later(backlog.queue.name, receipts, backlog.give_back)
                self._settling.settle_now(later, now)
            elif left > 0:
                with self.lock:
                    self._look_at = min(self._look_at, now + left)

    def _accompanied(self, queue: str, receipt: str) -> Call[Any] | None:
        """The call that says that this one is alone no more.

        None of a cluster: the node may be away, so a thread of that node says it.
        """
        call = self._renewal.extending(queue, [receipt], beside=True)
        if self._engine.slots is None:
            return call
        self._settling.settle_later(queue, (), partial(_beside, call), within=0.0)
        return None

    def cancelled(self, receipts: Iterable[str]) -> None:
        """The messages of these receipts were cancelled: say so to those that work on them, once.

        They are held on to until that is over.
        """
        for receipt in receipts:
            lease = self._leases.get(receipt)
            holder: Any = lease.holder() if lease is not None else None
            if lease is not None and holder is not None and not holder.cancelled:
                holder.cancelled = True
                log.warning("%r was cancelled", holder, extra=log_extra(holder, lease.queue))
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
                text = "lost the lease of %r: another consumer has the message, or it is gone"
                log.warning(text, holder, extra=log_extra(holder, lease.queue))


def _impatient(address: Address) -> Address:
    """The same, where no answer is waited for so long that what is held is lost meanwhile.

    A connection may fall silent for good: a router forgot it. Two thirds of the lease are left for
    another one, if it is not very short.
    """
    options = address.options
    most = max(LEAST, renewal_ms(options.lease_ms) / 1000)
    reply, connect = options.socket_timeout or most, options.socket_connect_timeout or most
    return replace(
        address,
        options=replace(
            options,
            socket_timeout=min(reply, most),
            socket_connect_timeout=min(connect, most),
        ),
    )


def _beside(call: Call[Any]) -> Flow[None]:
    try:
        yield from flows.ask(call)
    except ServerUnavailable:
        raise
    except AtomqError as error:
        log.info("a message counts as alone and is not: %s", error)


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
    for one in members(_keepers):
        one.leave()
