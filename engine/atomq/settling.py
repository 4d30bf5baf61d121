"""What a process has still to settle: acks that wait for a claim, and what met an outage."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple
from urllib.parse import unquote

from atomq import flows
from atomq.background import Background
from atomq.client import Engine
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows import Acks, Flow
from atomq.node_threads import NodeThreads, by_place
from atomq.troubles import Troubles, is_of_all

log = logging.getLogger("atomq.leases")

ACK_DELAY = 0.005  # seconds an ack waits for a claim to ride along with
RETRY = 0.3  # seconds until something is tried again that met a server that was gone


class Later(NamedTuple):
    """What is still to be settled, by a flow."""

    queue: str | None
    receipts: Sequence[str]
    flow: Callable[[], Flow[Any]]
    holders: Sequence[Any] = ()
    """They live until it is settled, so their leases are renewed, and they are not abandoned."""


class Settling:
    """What waits to be sent, by the thread of the leases. It belongs to their keeper.

    Of a cluster each node has a thread of its own. `drop` is called with the receipts of what is
    settled, which are not held any more.

    What is acked is not renewed any more, so its ack has to arrive while its lease lasts. One that
    a call took along is sent once more if that call is not answered for half of the time between
    two renewals (`renew_ms`). The loop that is to read the answer may stand still meanwhile: all
    places of a green pool are taken, a task occupies the thread. Half of the lease is left then.
    """

    def __init__(
        self,
        engine: Engine,
        thread: Background,
        drop: Callable[[Iterable[str]], None],
        renew_ms: int,
    ) -> None:
        self._engine = engine
        self._patience = renew_ms / 2000
        self._thread = thread
        self._drop = drop
        self.acks = Acks(waiting=self._send_soon, lost=_too_late)
        """Those that may ride along with a claim."""

    def begin(self, nodes: NodeThreads) -> None:
        """Begin with nothing; also in a forked child."""
        self._nodes = nodes
        self.later: deque[Later] = deque()
        self._acking = False
        self._troubles = Troubles("acks")
        self.stop()

    def stop(self) -> None:
        """Send nothing more, until something is to be sent anew."""
        self.send_at = self._repeat_at = inf

    def due(self) -> float:
        """When the thread is to do something (monotonic)."""
        return min(self.send_at, self._repeat_at)

    def _send_soon(self) -> None:
        # While acks come all the time the thread looks by itself every few milliseconds: rousing it
        # costs the thread that works more than the ack does.
        self._acking = True
        if self.send_at != inf:
            return
        with self._thread.wake:
            if self.send_at == inf:
                self.send_at = time.monotonic() + ACK_DELAY
                self._thread.rouse()

    def settle(
        self,
        queue: str | None,
        receipts: Sequence[str],
        flow: Callable[[], Flow[Any]],
        holders: Sequence[Any] = (),
    ) -> bool:
        """Settle what is held of a queue by a flow; whether that was done now.

        If the server is gone it is done by the thread, as soon as the server is back.
        """
        if self.is_in_doubt(queue):
            self.settle_later(queue, receipts, flow, holders=holders)
            return False
        try:
            self._engine.run(flow())
        except ServerUnavailable as error:
            log.info("%d messages are settled later: %s", len(receipts), error)
            self.settle_later(queue, receipts, flow, holders=holders)
            return False
        self._drop(receipts)
        return True

    def is_in_doubt(self, queue: str | None) -> bool:
        """Whether the node of a queue gave no answer: of a cluster, no caller waits for it."""
        slots, place = self._engine.slots, self._engine.place(queue)
        return slots is not None and place in slots.doubted

    def settle_later(
        self,
        queue: str | None,
        receipts: Sequence[str],
        flow: Callable[[], Flow[Any]],
        within: float = RETRY,
        holders: Sequence[Any] = (),
    ) -> None:
        """Have the thread do it, in so many seconds. `holders` are those of the receipts."""
        with self._thread.wake:
            self.later.append(Later(queue, receipts, flow, holders))
            self.send_at = min(self.send_at, time.monotonic() + within)
            self._thread.rouse()

    def settle_now(self, later: Later, now: float) -> None:
        """Do it with the turn that began `now`: what says so is the thread itself."""
        with self._thread.wake:
            self.later.append(later)
            self.send_at = now

    def send(self, wait: float) -> None:
        """Send it now, if there is any. What cannot be sent is kept."""
        if self.acks.queues() or self.later:
            self.flush(wait)

    def turn(self, now: float) -> None:
        """Send what is due."""
        if now >= self.send_at:
            self._send_waiting(now)
        if now >= self._repeat_at:
            self._repeat(now)
        # Each ack that is added is followed by a turn, so this sees it: it waits or was taken.
        at = (now if self.acks.queues() else self.acks.taken_since()) + self._patience
        with self._thread.wake:
            self._repeat_at = at if at > now else now + min(self._patience, RETRY)

    def _send_waiting(self, now: float) -> None:
        with self._thread.wake:
            self.send_at = now + ACK_DELAY if self._acking else inf
            self._acking = False
        oldest = self.acks.since()
        if oldest + ACK_DELAY > now and not self.later:
            # A claim may take them along before their time is up.
            with self._thread.wake:
                self.send_at = min(self.send_at, max(oldest + ACK_DELAY, now + 0.001))
        elif not self.flush():
            with self._thread.wake:
                self.send_at = now + RETRY

    def _repeat(self, now: float) -> None:
        """Send once more what a call took along that is not answered for so long."""
        batches = self.acks.unanswered(now - self._patience)
        if self._engine.slots is None:
            self._repeat_some(batches)
            return
        for node, some in by_place(batches, lambda each: self._engine.place(each[0])).items():
            self._nodes.do(node, "unanswered acks", partial(self._repeat_some, some))

    def _repeat_some(self, batches: Sequence[tuple[str, Sequence[str]]]) -> None:
        for name, receipts in batches:
            log.debug("%d acks of %s are not answered: sent once more", len(receipts), name)
            try:
                self._engine.run(flows.repeat(self._engine.keys(name), receipts, self.acks))
                self._troubles.over(name)
            except AtomqError as error:
                self._troubles.met(error, name, "acks of %s are kept, to be sent: %s", name)

    def flush(self, wait: float = 0.0) -> bool:
        """Send what waits to be sent; whether all was. `wait`: seconds, for the nodes of a cluster.

        What a node does not take is tried again by the thread, some time later.
        """
        if self._engine.slots is None:
            return self._send_some(self.acks.queues(), list(self.later))
        place = self._engine.place
        acks, later = (
            by_place(self.acks.queues(), place),
            by_place(self.later, lambda each: place(each.queue)),
        )
        under_way = []
        for node in {**acks, **later}:
            some = partial(self._send_to_node, acks.get(node, []), later.get(node, []))
            under_way.append(self._nodes.do(node, "acks", some))
        until = time.monotonic() + wait
        for done in under_way if wait else ():
            if done is not None:
                done.wait(max(0.0, until - time.monotonic()))
        return None not in under_way

    def leave(self, wait: float, patience: float) -> None:
        """Send what waits for the last time. `wait`: see `flush`.

        Nothing is left of this process that could read an answer later, so what a call took along
        is sent once more. Where the server of acks is away it has so many seconds of `patience` to
        come back: what is done would be started again.
        """
        until = time.monotonic() + patience
        self.flush(wait)
        while True:
            self._repeat(inf)
            left = {*self.acks.queues(), *(queue for queue, _ in self.acks.unanswered())}
            rest = until - time.monotonic()
            if rest <= 0 or all(map(self._troubles.has, left)):
                return
            time.sleep(min(RETRY, rest))
            self.flush(wait)

    def _send_to_node(self, names: Sequence[str], later: Sequence[Later]) -> None:
        if not self._send_some(names, later):
            self._try_again(revive=False)

    def _try_again(self, *, revive: bool) -> None:
        """Have the thread try it some time later. With `revive` also one that is to end."""
        with self._thread.wake:
            self.send_at = min(self.send_at, time.monotonic() + RETRY)
            if revive or not self._thread.closing:
                self._thread.rouse()

    def _send_some(self, names: Sequence[str], later: Sequence[Later]) -> bool:
        sent = True
        for name in names:
            try:
                self._engine.run(flows.flush(self._engine.keys(name), self.acks, quietly=True))
                self._troubles.over(name)
            except AtomqError as error:  # which may be the trouble of this one queue
                self._troubles.met(error, name, "acks of %s are kept, to be sent: %s", name)
                sent = False
                if is_of_all(error, self._engine.slots):
                    break
        if not sent:
            self._try_again(revive=True)  # what is done would be started again
        for each in later:
            try:
                self._engine.run(each.flow())
            except ServerUnavailable:
                return False
            except AtomqError as error:
                log.warning("%d messages were not settled: %s", len(each.receipts), error)
            with self._thread.wake, contextlib.suppress(ValueError):  # at exit two threads do this
                self.later.remove(each)
            self._drop(each.receipts)
        return sent


def _too_late(queue: str, words: Sequence[str]) -> None:
    """Of what is acked on the way nothing is kept but this; a tracked message says its id there."""
    for word in words:
        receipt, _, name = word.partition(" ")
        message_id = unquote(name) or None
        of = "a message" if message_id is None else f"message {message_id}"
        text = "%s of %r went to another consumer: %s was acked too late"
        log.warning(text, of, queue, receipt, extra={"queue": queue, "message_id": message_id})
