"""What this process holds, kept alive in the background.

A lease means that its holder lives. So it is renewed by a thread with a connection of its own,
whatever the thread that works is doing, and through lost connections; and acks that wait for the
next claim are sent after a moment if no claim comes.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from atomq import calls, flows
from atomq.calls import Verdict, renewal_ms
from atomq.client import Engine, EngineBase
from atomq.errors import AtomqError, ServerUnavailable
from atomq.flows import Acks, Flow
from atomq.keys import QueueKeys

log = logging.getLogger("atomq.leases")

ACK_DELAY = 0.005  # seconds an ack waits for a claim to ride along with
RETRY = 0.3  # seconds until something is tried again that met a server that was gone
IDLE = 5.0  # seconds after which the thread ends when nothing is held


class Held(Protocol):
    """What holds a lease. When it is garbage, the lease is not renewed any more."""

    receipt: str
    settled: bool
    lost: bool


class _Lease:
    __slots__ = ("holder", "queue", "since", "started")

    def __init__(self, queue: QueueKeys, holder: weakref.ref[Any], since: float) -> None:
        self.queue = queue
        self.holder = holder
        self.since = since  # when it was claimed or last renewed
        self.started: float | None = None


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
        self._engine.retry = type(engine.retry)(attempts=0, budget=self.renew_ms / 1000)
        self._begin()
        engine.at_close.append(self.close)
        _keepers.add(self)

    def _begin(self) -> None:
        self.home = object()
        """Another one in a forked child: what was claimed elsewhere belongs to another process."""
        self._leases: dict[str, _Lease] = {}
        self._troubled: set[tuple[str, str]] = set()
        self._later: deque[tuple[Sequence[str], Callable[[], Flow[Any]]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = self._acking = False
        self._renew_at = self._flush_at = float("inf")

    # ── what holders say ──────────────────────────────────────────────────────────────────────

    def hold(self, queue: QueueKeys, holders: Iterable[Held]) -> None:
        """Renew these from now on. To be called before the first of them is handed over."""
        now = time.monotonic()
        leases = {one.receipt: _Lease(queue, weakref.ref(one), now) for one in holders}
        if not leases:
            return
        with self._wake:
            self._leases.update(leases)
            if self._renew_at == float("inf"):
                self._renew_at = now + self.renew_ms / 1000
                self._rouse()

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

    def ack_later(self, queue: QueueKeys, receipt: str) -> None:
        """Ack with the next claim on the queue, or in 5 ms. It is not held any more."""
        self._leases.pop(receipt, None)
        self.acks.add(queue.name, receipt)

    def _send_soon(self) -> None:
        # While acks come all the time the thread looks by itself every few milliseconds: rousing it
        # costs the thread that works more than the ack does.
        self._acking = True
        if self._flush_at != float("inf"):
            return
        with self._wake:
            if self._flush_at == float("inf"):
                self._flush_at = time.monotonic() + ACK_DELAY
                self._rouse()

    def settle(self, receipts: Sequence[str], flow: Callable[[], Flow[Any]]) -> bool:
        """Settle what is held by a flow; whether that was done now.

        If the server is gone it is done by the thread, as soon as the server is back.
        """
        try:
            self._engine.run(flow())
        except ServerUnavailable as error:
            log.info("%d messages are settled later: %s", len(receipts), error)
            with self._wake:
                self._later.append((receipts, flow))
                self._flush_at = min(self._flush_at, time.monotonic() + RETRY)
                self._rouse()
            return False
        self.drop(receipts)
        return True

    def abandoned(self) -> list[tuple[QueueKeys, list[str]]]:
        """Receipts whose holder is garbage, by queue. They are forgotten here."""
        found: dict[QueueKeys, list[str]] = {}
        for receipt, lease in self._leases.copy().items():
            if lease.holder() is None and self._leases.pop(receipt, None) is not None:
                found.setdefault(lease.queue, []).append(receipt)
        return list(found.items())

    def holds(self, receipt: str) -> bool:
        """Whether this receipt is still renewed."""
        return receipt in self._leases

    def close(self) -> None:
        """Send the acks that wait and stop. What is held is not renewed any more."""
        with self._wake:
            self._closed = True
            self._leases.clear()
            self._renew_at = self._flush_at = float("inf")
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2)
        self._flush()
        self._engine.close()

    def send(self) -> None:
        """Send the acks that wait, now. Those that cannot be sent are kept."""
        if self.acks.queues():
            self._flush()

    def forked(self) -> None:
        """In a child process: everything held is the parent's."""
        self.acks.forget()
        self._begin()

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _rouse(self) -> None:
        self._closed = False
        if self._thread is None:
            # It holds the keeper weakly between two turns: an engine nobody uses any more may go.
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
        if now >= self._flush_at:
            with self._wake:
                self._flush_at = now + ACK_DELAY if self._acking else float("inf")
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
                self._renew_at = now + again if self._leases else float("inf")
        with self._wake:
            idle = self._renew_at == self._flush_at == float("inf")
            seconds = min(self._renew_at, self._flush_at) - time.monotonic()
            if not self._closed and seconds > 0:
                roused = self._wake.wait(min(seconds, IDLE))
                idle = idle and not roused
            if self._closed or idle:
                self._thread = None
                return False
            return True

    def _flush(self) -> bool:
        sent = True
        for name in self.acks.queues():
            try:
                self._engine.run(flows.flush(self._engine.keys(name), self.acks))
                self._well("acks", name)
            except AtomqError as error:  # which may be the trouble of this one queue
                self._trouble(error, "acks", name, "acks of %s are kept, to be sent: %s", name)
                sent = False
        while sent and self._later:
            receipts, flow = self._later[0]
            try:
                self._engine.run(flow())
            except ServerUnavailable:
                return False
            except AtomqError as error:
                log.warning("%d messages were not settled: %s", len(receipts), error)
            self._later.popleft()
            self.drop(receipts)
        return sent

    def _renew(self) -> float:
        """Extend everything held; seconds until the next time."""
        by_queue: dict[QueueKeys, list[str]] = {}
        now, pause = time.monotonic(), self.renew_ms / 1000
        for receipt, lease in self._leases.copy().items():
            if lease.holder() is None:
                if now - lease.since > self.lease_ms / 1000:
                    self.drop([receipt])  # its lease has ended
            elif lease.started and self.max_lease and now - lease.started > self.max_lease:
                log.warning("%s was worked on for longer than max_lease: no longer held", receipt)
                self.drop([receipt])
            else:
                by_queue.setdefault(lease.queue, []).append(receipt)
        for queue, receipts in by_queue.items():
            for batch in flows.batches(receipts):
                try:
                    verdicts = self._engine.run(
                        calls.extend(queue, batch, lease_ms=self.lease_ms, renew_ms=self.renew_ms)
                    )
                    self._well("leases", queue.name)
                except AtomqError as error:
                    text = "%d leases of %s not renewed yet: %s"
                    self._trouble(error, "leases", queue.name, text, len(batch), queue.name)
                    pause = min(0.5, self.renew_ms / 3000)
                    break  # the other queues may fare better
                for receipt in batch:
                    if renewed := self._leases.get(receipt):
                        renewed.since = now
                pairs = zip(batch, verdicts, strict=True)
                self.lost([receipt for receipt, v in pairs if v is not Verdict.DONE])
        return pause

    def _trouble(self, error: AtomqError, what: str, queue: str, *words: Any) -> None:
        """Say it once: it is tried again several times a second. The engine says who is away."""
        known = isinstance(error, ServerUnavailable) or (what, queue) in self._troubled
        log.log(logging.DEBUG if known else logging.WARNING, *words, error)
        if not isinstance(error, ServerUnavailable):
            self._troubled.add((what, queue))

    def _well(self, what: str, queue: str) -> None:
        if (what, queue) in self._troubled:
            self._troubled.discard((what, queue))
            log.info("%s of %s are well again", what, queue)

    def lost(self, receipts: Iterable[str]) -> None:
        """These receipts are not live: tell their holders, once."""
        for receipt in receipts:
            lease = self._leases.pop(receipt, None)
            holder = lease.holder() if lease is not None else None
            if holder is not None and not (holder.lost or holder.settled):
                holder.lost = True
                log.warning("lost the lease %s: the message was handed to somebody else", receipt)


def _too_late(receipts: Sequence[str]) -> None:
    for receipt in receipts:
        log.warning("%s was acked too late: the message was handed to somebody else", receipt)


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
_making = threading.Lock()


def keeper(engine: EngineBase) -> LeaseKeeper:
    """The one keeper of an engine."""
    with _making:
        found = _by_engine.get(engine)
        if found is None:
            found = _by_engine[engine] = LeaseKeeper(engine)
        return found


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - it may have been held when the process forked
    _making = threading.Lock()
    for one in list(_keepers):
        one.forked()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    for one in list(_keepers):
        one.send()
