"""Messages as Kombu hands them out, and what becomes of them.

A delivery tag here is the receipt: new at every delivery, so two holders of one message can never
settle each other's. Acks never raise: they wait for the next claim, or a few milliseconds, in a
buffer of the process, and stay there until the server has answered.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any
from weakref import WeakValueDictionary

from kombu.transport import virtual

from atomq import calls, flows
from atomq.calls import Rejection
from atomq.contrib.kombu import task_faults, worker, worker_hooks
from atomq.contrib.kombu.reading import body_in_json
from atomq.delivery import Delivery
from atomq.errors import AtomqError, InvalidMessage, ServerUnavailable

log = logging.getLogger("atomq.kombu")

BEGUN, GIVEN_BACK = "begun", "given back"


class Message(virtual.Message):
    """A message that remembers its delivery, and whether it could be decoded."""

    undecodable: BaseException | None = None
    revoked = False
    """Whether a Celery worker ends its task by its own revoke: see `worker_hooks`."""
    failure = ""
    """What its task failed of, where a Celery worker notes it: see `worker_hooks`."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        self.delivery: Delivery | None = payload.pop("atomq.delivery", None)
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception as error:
            raise InvalidMessage(f"{type(error).__name__}: {error}") from error
        if self.errors:
            self.undecodable = self.errors[0][1]

    def becomes(self, fate: str) -> str:
        """What becomes of it in a worker that stops: what is said first. For any thread.

        `setdefault` is one operation, which threads do not divide.
        """
        return str(self.__dict__.setdefault("fate", fate))

    def given_up(self) -> bool:
        """Whether it is not to be begun: others may have it. What may be ours still is given back.

        For any thread; asked once, by what begins it. It sends nothing to the server unless this
        process stood still for longer than a lease, or the renewal found that another has it.
        """
        delivery = self.delivery
        if delivery is None:
            return False
        broker = self.channel.broker
        is_over = delivery.lost or broker.keeper.lapsed(delivery.receipt)
        if delivery.settled or not is_over:
            return self.becomes(BEGUN) == GIVEN_BACK
        delivery.settled = True
        if not delivery.lost:
            broker.give_back(broker.keys(delivery.queue), [delivery.receipt])
        log.info("%s is not begun: its lease may have ended", delivery)
        return True

    def _decode(self) -> Any:
        try:
            decoded = body_in_json(self.body, self.content_type, self.content_encoding, self.accept)
            if decoded is None:
                decoded = super()._decode()
            if fault := task_faults.fault(decoded):
                raise InvalidMessage(fault)
            return decoded
        except Exception as error:
            self.undecodable = error
            raise


class QoS(virtual.QoS):
    """Local bookkeeping for `can_consume`, and one place where messages are settled."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._killed: set[str] = set()
        # What still ran when the worker stopped, or the channel was closed: settled all the same.
        self._outlived: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def ack(self, delivery_tag: str) -> None:
        message: Any = self._delivered.get(delivery_tag) or self._outlived.get(delivery_tag)
        delivery = getattr(message, "delivery", None)
        if delivery is not None and not delivery.settled:
            if worker.terminating() and worker.killed(message):
                self._killed.add(delivery_tag)  # it is given back with the rest
                return
            if delivery.lost:
                delivery.settled = True  # another consumer has it: it was logged then
            elif message.undecodable is not None:
                # Celery acks what it could not decode; nothing is dropped in silence here.
                self._dead(delivery, "undecodable", message.undecodable)
            elif delivery.cancelled and message.revoked:
                self.release(delivery, counted=False)  # which drops what was cancelled
            else:
                delivery.settled = True
                broker = self.channel.broker
                broker.keeper.ack_later(broker.keys(delivery.queue), delivery.word)
        self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message: Any = self._delivered.get(delivery_tag) or self._outlived.get(delivery_tag)
        delivery = getattr(message, "delivery", None)
        if delivery is not None and not delivery.settled:
            if requeue:
                self._requeue(delivery)
            else:
                self._dead(delivery, "rejected", _cause(message), message.failure)
        self._quick_ack(delivery_tag)

    def release(
        self,
        delivery: Delivery,
        *,
        delay_ms: int = 0,
        front: bool = False,
        counted: bool = True,
    ) -> None:
        """Give one message back, at once or after a delay."""
        delivery.settled = True
        broker = self.channel.broker
        queue = broker.keys(delivery.queue)
        item = (delivery.receipt, _id_of(delivery) if delay_ms else "")
        self._settle(
            delivery,
            lambda: flows.in_batches(
                [item],
                lambda some: calls.release(
                    queue, some, delay_ms=delay_ms, front=front, counted=counted
                ),
            ),
        )

    def _requeue(self, delivery: Delivery) -> None:
        # To the back, as stock does it; it counts, so a message that kills its workers ends.
        self.release(delivery)

    def _dead(
        self, delivery: Delivery, reason: str, error: BaseException | None, detail: str = ""
    ) -> None:
        if worker.interrupted(error):
            self.release(delivery, front=True, counted=False)
            return
        delivery.settled = True
        detail = detail or worker_hooks.described(error)
        broker = self.channel.broker
        queue = broker.keys(delivery.queue)
        item = Rejection(delivery.receipt, _id_of(delivery), reason, _sendable(detail))
        self._settle(
            delivery,
            lambda: flows.in_batches([item], lambda some: calls.reject(queue, some)),
        )

    def _settle(self, delivery: Delivery, flow: Any) -> None:
        try:
            self.channel.broker.keeper.settle([delivery.receipt], flow)
        except AtomqError as error:
            # It comes back when its lease ends: to end the worker for it would help no message.
            log.warning("%s was not settled: %s", delivery, error)
            self.channel.broker.keeper.drop([delivery.receipt])

    # ── leaving ───────────────────────────────────────────────────────────────────────────────

    def restore_unacked(self) -> list[Any]:
        """Give back what was not started, in one call a queue; it does not count as delivered.

        Only a worker that stops gives back what it has taken on. If it was its connection that
        ended, what runs, or waits in its pool, goes on under its lease; what is not held any more
        is found when the next connection is made.
        """
        self._flush()
        transport = self.channel.connection
        kept, counted = self._told_apart()
        if transport is None or not transport.lost:
            self._give_back(kept, counted)
        self._outlived.update(self._ours())
        self._delivered.clear()
        return []

    def give_back_unbegun(self) -> None:
        """A worker that stops gives back what it will not begin; what runs has time to end."""
        if not self._delivered:
            return
        waiting = {tag for tag, one in worker.requests().items() if one.time_start is None}
        waiting -= worker.running()
        self._give_back(self._stay(waiting), set())
        # Celery has struck out what waited for its pool: no task holds that. What is done and not
        # acked yet, Celery holds.
        held = WeakValueDictionary(self._ours())
        self._outlived.update(held)  # where a thread finds what it acks meanwhile
        for tag in list(held):
            self._delivered.pop(tag, None)
        with contextlib.suppress(ServerUnavailable):
            self.channel.broker.reap()
        self._delivered.update(held)

    def _stay(self, waiting: set[str]) -> set[str]:
        """What stays while the worker stops. What waits goes, unless its begin was not heard of.

        A child of prefork may have begun it. And a thread that is free before Celery stops its pool
        takes the next task: it finds out.
        """
        return {
            tag
            for tag, message in self._ours().items()
            if tag not in waiting or message.becomes(GIVEN_BACK) == BEGUN
        }

    def _ours(self) -> dict[str, Message]:
        """What was delivered, without what a program appended by itself, which has no lease."""
        delivered = list(self._delivered.items())
        return {tag: message for tag, message in delivered if isinstance(message, Message)}

    def _begun(self) -> set[str]:
        return worker.running() | {
            tag for tag, request in worker.requests().items() if request.time_start is not None
        }

    def _give_back(self, kept: set[str], counted: set[str]) -> None:
        by_queue: dict[tuple[str, bool], list[str]] = {}
        for tag, message in list(self._delivered.items()):
            delivery = getattr(message, "delivery", None)
            if delivery is None or delivery.settled or tag in kept:
                continue
            delivery.settled = True
            by_queue.setdefault((delivery.queue, tag in counted), []).append(delivery.receipt)
        broker = self.channel.broker
        for (queue, started), receipts in by_queue.items():
            with contextlib.suppress(ServerUnavailable):
                broker.give_back(broker.keys(queue), receipts, counted=started)

    def _told_apart(self) -> tuple[set[str], set[str]]:
        """Of what was delivered: what is not to be given back, and what counts if it is."""
        if worker.terminating():
            requests = worker.requests()
            started = {tag for tag, request in requests.items() if request.time_start is not None}
            return set(), started | self._killed
        if worker.stopping():
            return self._stay(set(self._delivered) - worker.running()), set()
        if self._delivered and worker.ending():  # by an error of its own: what it had begun counts
            return worker.running(), self._begun()
        return set(worker.requests()) if self._delivered else set(), set()


def _cause(message: Any) -> BaseException | None:
    """What it is rejected for: it could not be decoded, or an exception that is being handled.

    One that ends the process, as WorkerTerminate does, is not the message's.
    """
    handled = sys.exc_info()[1]
    return message.undecodable or (handled if isinstance(handled, Exception) else None)


def _id_of(delivery: Delivery) -> str:
    try:
        name = delivery.envelope.headers.get("id")
        return _sendable(name if isinstance(name, str) and name else delivery.envelope.id)
    except AtomqError:
        return ""


def _sendable(text: str) -> str:
    """Without what JSON can express and UTF-8 cannot: half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
