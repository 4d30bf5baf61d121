"""What one connection receives, handed over to its channels: in an event loop, or drained by hand.

Whatever comes makes the socket readable, so an event loop can watch it and a blocking caller can
wait on it. Everything is handed over from `on_readable`: what Celery does in there is seen by its
loop before it sleeps again. `intake.py` takes in what comes, `hand_over.py` keeps what waits here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any
from weakref import WeakSet

from redis import exceptions as server

from atomq.contrib.kombu.channel import Channel
from atomq.contrib.kombu.hand_over import HandOver
from atomq.contrib.kombu.intake import Intake
from atomq.contrib.kombu.shards import Shards
from atomq.contrib.kombu.waker import Alarm, Waker
from atomq.contrib.kombu.worker import (
    acks_between_drains,
    in_gevent_hub,
    runs_in_delivery,
    stopping,
)
from atomq.errors import AtomqError
from atomq.keys import QueueKeys
from atomq.shared import members

log = logging.getLogger("atomq.kombu")

TURN = 0.005  # seconds of handing over in one turn of the event loop: as late as acks may be
NAP = (0.001, 0.1)  # seconds, the least and the most, between two looks for acks to be sent
_pollers: WeakSet[Poller] = WeakSet()


def let_go() -> None:
    """Give back what no connection of this process has handed over yet."""
    for poller in members(_pollers):
        poller.let_go()


class Poller:
    """The receiving side of one transport. Belongs to one thread."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._broker = transport.broker
        self._handed_at = 0.0
        self._waker: Waker | None = None
        self._alarm: Alarm | None = None
        self._buffer = HandOver(self._broker)
        kind = Shards if self._broker.on_cluster else Intake
        self._intake: Any = kind(transport, self._buffer)
        self.pump: Callable[[], None] = self._intake.pump
        """Send what there is to send: a claim if there is room and work, else the wait for work."""
        _pollers.add(self)

    # ── what channels report: see `consuming.Receiver` ────────────────────────────────────────

    def regroup(self) -> None:
        """A channel claims from, or pops from, other queues than before."""
        self._intake.demand.regroup()

    def changed(self, keys: QueueKeys) -> None:
        """A consumer came: look into its queue, listen to its broadcasts."""
        self._intake.began(keys.name)

    def cancelled(self, channel: Channel, queues: Collection[str]) -> None:
        """A consumer went, of one queue or its partitions.

        What was claimed for it and not handed over goes back.
        """
        for queue in queues:
            self._intake.ended(queue)
        if in_gevent_hub():
            return  # a signal handler of a worker that stops: all of this is done when it hangs up
        try:
            if stopping() and not self._transport.lost:
                channel.qos.give_back_unbegun()
            self._buffer.give_back(lambda one, got: one is channel and got.queue in queues)
            if not self._transport.lost:
                for queue in queues:
                    self._intake.leave(queue)
                    channel.consumer_left(queue)
        except (server.RedisError, OSError, AtomqError) as error:
            if not channel.closed:
                raise
            log.debug("while closing a channel: %s", error)  # it must get to its end

    def forget(self, channel: Channel) -> None:
        """A channel closes."""
        self.regroup()
        self._buffer.give_back(lambda one, _: one is channel)

    def let_go(self) -> None:
        """The worker stops: give back what waits here to be handed over. For any thread."""
        self._buffer.let_go()

    def listens(self, queue: str) -> None:
        """A queue was declared whose messages come as broadcasts do: listen to them."""
        self._intake.began(queue)

    def ring_at(self, at: float) -> None:
        """Have the event loop, if there is one, come back then (monotonic).

        It asks its timers for how long it may sleep before it calls `tick`, so what comes of an
        answer is said at once.
        """
        if self._alarm is not None and at < self._alarm.at:
            self._alarm.set(at)

    # ── what the transport asks ───────────────────────────────────────────────────────────────

    def watch(self, on_socket: Callable[[int | None], None], waker: Waker, alarm: Alarm) -> None:
        """Call `on_socket` with the file number to watch, and None when there is none any more.

        While `waker` is set, `on_waker` is to be called too; and `tick` at each turn of the event
        loop, of which there is one when `alarm` rings.
        """
        self._waker, self._alarm = waker, alarm
        self._intake.attach(on_socket)

    def close(self) -> None:
        """Give back what was not handed over, pass a wake-up on, and hang up."""
        self._intake.close()

    def on_readable(self) -> None:
        """Take in what came, hand over what can be, and send what comes next."""
        # Another callback of this turn may have taken it in. To ask each time would cost a poll.
        if not self._intake.has_news():
            return
        if not self._intake.has_answer:
            self._intake.hear()
        while True:
            if self._intake.has_answer:
                self._intake.read()
            if self._waker is None or not self._waker.is_set:
                self._hand_over()
            if not self._intake.has_answer:
                return

    def on_waker(self) -> None:
        """Go on handing over what waits here, after what came meanwhile: it may stop the worker."""
        if self._intake.can_read(0):
            self.on_readable()
        self._hand_over()

    def tick(self) -> None:
        """A turn of the event loop: send what there is to send, and be called when more is due."""
        now = time.monotonic()
        self.pump()
        # What was due before this turn waits for room, or for an answer: both make a turn.
        if self._alarm is not None and now < (at := self._intake.next_at) < self._alarm.at:
            self._alarm.set(at)

    def _hand_over(self) -> None:
        """Hand over what waits here, for some time: then the loop sees to what came of it.

        A solo worker runs a task in there. The loop acks it, and may stop us.
        """
        until = time.monotonic() + TURN
        works = runs_in_delivery(in_loop=self._waker is not None)
        try:
            while self._buffer.waiting and not stopping():
                self._deliver_one(works=works)
                if self._waker is not None and time.monotonic() > until:
                    break
        finally:  # a callback may raise, and the loop go on
            if self._waker is not None:
                self._waker.set(bool(self._buffer.waiting) and not stopping())

    def receive(self, timeout: float | None) -> bool:
        """Hand over one message or broadcast; False if none came within `timeout` seconds.

        A worker that acks between two calls is let go sooner, to see whether it has to: after a
        tenth of the time since it was handed something.
        """
        if acks_between_drains():
            nap = min(max((time.monotonic() - self._handed_at) / 10, NAP[0]), NAP[1])
            timeout = nap if timeout is None else min(timeout, nap)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._buffer and not stopping():
                self._handed_at = time.monotonic()
                self._deliver_one(works=runs_in_delivery(in_loop=self._waker is not None))
                return True
            self.pump()
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            wait = max(0.0, min(left, self._intake.next_at - time.monotonic()))
            if not self._intake.is_open:
                time.sleep(min(wait, 0.1))
            elif self._intake.can_read(wait) and self._intake.read_on():
                return True
            late = deadline is not None and time.monotonic() >= deadline
            if late and (not self._buffer or stopping()):
                return False

    def _deliver_one(self, *, works: bool) -> None:
        """Hand over the oldest message that waits. `works`: that is to work on it."""
        oldest = self._buffer.next()
        if oldest is None:
            return
        channel, delivery, now_ms = oldest
        if not delivery.lost:
            if not works:
                channel.deliver(delivery, now_ms)
                return
            # This connection hears nothing until the task is done.
            self._intake.begin_task()
            try:
                channel.deliver(delivery, now_ms)
            finally:
                self._intake.end_task()
