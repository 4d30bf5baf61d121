"""One server as one process sees it: shared by all connections and channels to it.

Leases belong to the process, not to a connection: what was claimed over one that is gone is
renewed, acked and given back all the same.
"""

from __future__ import annotations

import atexit
import gc
import logging
import weakref
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from atomq import calls, flows, fork
from atomq.address import Address
from atomq.arguments import LAST_MS
from atomq.calls import Call, Claimed
from atomq.client import Engine
from atomq.contrib.fleet import Attendance
from atomq.contrib.kombu import worker
from atomq.contrib.kombu.bindings import Bindings
from atomq.contrib.kombu.node_bindings import NodeBindings
from atomq.contrib.kombu.rights import Rights
from atomq.contrib.kombu.spread import Spread
from atomq.contrib.kombu.unconfirmed import Unconfirmed
from atomq.delivery import Delivery
from atomq.errors import AtomqError, ServerUnavailable
from atomq.ids import Ids
from atomq.keys import QueueKeys
from atomq.leases import LeaseKeeper, keeper
from atomq.shared import OneEach

log = logging.getLogger("atomq.kombu")

MOST_CLAIMS = 256  # sets of queues whose claims are kept


class Broker:
    """Engine, leases and routing tables of one server."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.engine = Engine(address)
        self.keys = self.engine.keys
        """The keys of a queue."""
        self._claims: dict[tuple[str, ...], calls.Claims] = {}
        self.keeper: LeaseKeeper = keeper(self.engine)
        self.ids = Ids()
        self.unanswered: list[Call[Claimed]] = []
        """Claims that a connection was lost under: what they hold is asked for again."""
        self.rights = Rights()
        self.bindings: Bindings = (NodeBindings if self.on_cluster else Bindings)(self.engine)
        self.spread = Spread(self.engine)
        """The queues that have partitions."""
        self.attendance = Attendance(self.engine, lambda: self.ids.prefix, self.spread.found)
        self.unconfirmed = Unconfirmed(self.engine.options.call_window_ms / 1000)
        self.terminate_cancelled = ""
        """The signal that ends a running task that was cancelled, see `Settings`."""
        self.keeper.on_cancelled = self._cancelled
        self._introduced = False

        fork.renew(self)

    def forked(self) -> None:
        """In a child process: what was claimed without an answer is the parent's to give back."""
        self.unanswered = []
        self._introduced = False

    def introduce(self) -> None:
        """Have the register know which worker of Celery's this process is, if it is one."""
        if not self._introduced:
            self._introduced = True
            if (found := worker.controller()) is not None:
                known, register = weakref.ref(found), self.engine.register
                register.about.update(kind="celery", name=str(found.hostname))
                register.concurrency = lambda: getattr(known(), "concurrency", None)

    @property
    def on_cluster(self) -> bool:
        """Whether it is a cluster: queues lie on several servers, each by itself."""
        return self.address.kind == "cluster"

    def claim(
        self, queues: Sequence[str], limit: int, acks: Mapping[str, Sequence[str]] | None = None
    ) -> Call[Claimed]:
        """A claim on some queues, with the acks that ride along."""
        names = tuple(queues)
        return (self._claims.get(names) or self._claims_of(names)).call(
            self.ids.next(),
            limit,
            company=self.keeper.alone.company() if limit else calls.HOLDS,
            acks=[acks[name] for name in names] if acks is not None else None,
        )

    def _claims_of(self, names: tuple[str, ...]) -> calls.Claims:
        options = self.engine.options
        if len(self._claims) >= MOST_CLAIMS:
            self._claims.clear()
        found = self._claims[names] = calls.Claims(
            [self.keys(name) for name in names],
            lease_ms=options.lease_ms,
            max_deliveries=options.max_deliveries,
            max_bytes=options.max_bytes,
        )
        return found

    def hold(self, claimed: Claimed, since: float) -> list[Delivery]:
        """Renew what a claim got, before the first is handed over; what is to be handed over.

        The claim was sent at `since` (see `flows.clock`) for the first time. Given back is what may
        not be held beside what this process holds.
        """
        found = claimed.deliveries
        if not self.keeper.hold(claimed, found, since):
            for queue in dict.fromkeys(delivery.queue for delivery in found):
                receipts = [delivery.receipt for delivery in found if delivery.queue == queue]
                self.give_back(self.keys(queue), receipts)
            found = []
        if claimed.drain_ms:
            self.keeper.alone.drain(claimed.drain_ms / 1000)
        for call in self.keeper.alone.accompanied():
            try:
                self.engine.run(call)
            except ServerUnavailable:
                self.keeper.do_later(call.queue.name, partial(flows.ask, call))
            except AtomqError as error:
                log.info("a message counts as alone and is not: %s", error)
        return found

    def _cancelled(self, delivery: Delivery) -> None:
        """A task that this worker holds was cancelled: have Celery revoke it, here alone."""
        try:
            name = delivery.envelope.headers.get("id")
        except AtomqError:
            return
        if isinstance(name, str):
            worker.revoke(name, self.terminate_cancelled)

    # ── giving back ───────────────────────────────────────────────────────────────────────────

    def give_back(self, queue: QueueKeys, receipts: list[str], *, counted: bool = False) -> None:
        """Messages that this process will not work on: to the front, in their order."""
        items = [(receipt, "") for receipt in receipts]
        self.keeper.settle(
            receipts,
            lambda: flows.in_batches(
                items, lambda some: calls.release(queue, some, front=True, counted=counted)
            ),
        )

    def dead_letter(self, queue: str, key: str, raw: bytes, error: Exception) -> None:
        """A message that was popped off a ready list and cannot be read: to the dead letters.

        Never raises: where even that is refused, the log keeps the message.
        """
        keys = self.keys(queue)
        call = calls.dead_letter(
            keys,
            raw,
            call_id=self.ids.next(),
            reason="undecodable",
            detail=str(error),
            step=keys.ready.index(key) + 1,
        )
        try:
            self.engine.run(call)
        except AtomqError as trouble:
            text = "an unreadable message of %s is lost (%s): %r"
            log.error(text, queue, trouble, raw)  # noqa: TRY400 - the trace says nothing more
        else:
            log.warning("an unreadable message of %s is a dead letter: %s", queue, error)

    def reap(self) -> int:
        """Give back what will not be settled: its Message is garbage, or its task cancelled."""
        count = 0
        while self.unanswered:
            # What cannot be asked for over this connection either is counted when its lease ends.
            try:
                claimed = self.engine.run(self.unanswered.pop(0).again())
            except ServerUnavailable:
                if not self.on_cluster:
                    raise
                continue  # other nodes are well
            for delivery in claimed.deliveries:
                self.give_back(self.keys(delivery.queue), [delivery.receipt])
                count += 1
        if not self.keeper.holds_any:
            return count
        # As costly as the heap is large, so not where nothing is held: producers, a worker that
        # begins.
        gc.collect()
        for message in worker.cancelled():
            delivery = message.delivery
            delivery.settled = True
            self.give_back(self.keys(delivery.queue), [delivery.receipt], counted=True)
            count += 1
        for queue, receipts in self.keeper.abandoned():
            self.give_back(queue, receipts)
            count += len(receipts)
        return count


broker_of: OneEach[Address, Broker] = OneEach(Broker)
"""The broker of an address; the same for equal addresses."""


@atexit.register
def _at_exit() -> None:
    for broker in broker_of.made():
        try:
            broker.keeper.close()
        except AtomqError:  # pragma: no cover - the server is gone; leases end by themselves
            continue


def eta_ms(eta: Any) -> int | None:
    """An ISO 8601 time as ms since 1970; None where it is none.

    One without a timezone is UTC, as it is to Celery's worker whatever its own timezone is. One
    beyond what the server counts is the nearest that it does.
    """
    if not isinstance(eta, str):
        return None
    try:
        parsed = datetime.fromisoformat(eta)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        return min(max(int(parsed.timestamp() * 1000), 0), LAST_MS)
    except (ValueError, OverflowError):
        return None
