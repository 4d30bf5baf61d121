"""What a channel consumes: from which queues, how much at once, and what becomes of a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from contextlib import suppress
from queue import Empty
from typing import Any, Protocol

from kombu.utils.scheduling import cycle_by_name

from atomq import calls
from atomq.calls import Rejection
from atomq.contrib.kombu import due, task_faults, worker
from atomq.contrib.kombu.broker import eta_ms
from atomq.contrib.kombu.declaring import is_reply_queue
from atomq.contrib.kombu.publishing import Publishing
from atomq.contrib.kombu.qos import Message, QoS
from atomq.contrib.kombu.reading import from_json
from atomq.delivery import Delivery
from atomq.errors import InvalidMessage, ServerUnavailable
from atomq.flows import clock
from atomq.fork import once
from atomq.keys import QueueKeys

log = logging.getLogger("atomq.kombu")

MOST_CLAIMED = 100  # messages in one claim
PACE = 0.05  # seconds
HEARD_MOST = 1000  # broadcasts remembered, to know those again that come twice
FAILURES = 3  # deliveries after which what the consumer cannot take is dead


class Receiver(Protocol):
    """The side of a connection that receives for its channels, and hears what they consume."""

    def regroup(self) -> None:
        """A channel claims from, or pops from, other queues than before."""

    def changed(self, keys: QueueKeys) -> None:
        """A channel began to consume this queue."""

    def listens(self, queue: str) -> None:
        """A queue was declared whose messages come as broadcasts do."""

    def cancelled(self, channel: Consuming, queues: Collection[str]) -> None:
        """A channel no longer consumes a queue: this one, or these partitions of it."""

    def forget(self, channel: Consuming) -> None:
        """A channel closes."""


class Consuming(Publishing):
    """The consuming side of a channel."""

    Message = Message
    QoS = QoS

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._receiver: Receiver = connection.receiver
        self.no_ack_queues: set[str] = set()
        self._takers: dict[str, Any] = {}
        """The consumer of each queue, where it is one of Kombu's."""
        self._heard: dict[tuple[str, Any], None] = {}
        self._order = cycle_by_name(self.settings.queue_order_strategy)()
        self._consumed: tuple[list[str], list[str]] | None = None
        self._wholes: list[str] = []  # the queues that the first of these are, or are partitions of
        self._turns: dict[str, int] = {}  # of queues with partitions: which one goes first
        self._pace, self._claimed_at = 1, 0.0
        self._least = 0  # the lowest prefetch count it was given
        self._enough = 0  # room that is worth a call

    @once
    def qos(self) -> Any:
        """Its `QoS`: the messages that are not settled. Asked for several times a message."""
        self._qos = self.QoS(self)
        return self._qos

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        self.broker.keys(queue)  # which says what no queue may be called
        self.broker.spread.begin(queue)
        if no_ack:
            self.no_ack_queues.add(queue)
        found = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self._takers[queue] = getattr(callback, "__self__", None)
        self._regroup()
        self._order.update(self._claimed_wholes())
        for name in self.broker.spread.names(queue):
            self._receiver.changed(self.broker.keys(name))
        if queue in self._expires and queue not in self.fanout_queues and not is_reply_queue(queue):
            with suppress(ServerUnavailable):  # on a cluster other shards are well
                self._touch(queue)
        return found

    def basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        found = super().basic_cancel(consumer_tag)
        if queue is not None:
            self._takers.pop(queue, None)
            self.no_ack_queues.discard(queue)
            self._regroup()
            self._order.update(self._claimed_wholes())
            if self.connection is not None:
                self._receiver.cancelled(self, self.broker.spread.names(queue))
        return found

    def look_for_partitions(self) -> None:
        """Now and then: consume from partitions that another process has added."""
        known = self.claimed_queues(), self.popped_queues()
        for queue in self._active_queues:
            spread = self.broker.spread.get(queue)
            if spread is None or queue in self.fanout_queues or queue in self.reply_queues:
                continue
            self.broker.spread.look(queue)
            if new := {*spread.names}.difference(*known):
                self._regroup()
                for name in sorted(new):
                    self._receiver.changed(self.broker.keys(name))

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        super()._new_queue(queue, auto_delete, **kwargs)
        if self.broker.on_cluster and is_reply_queue(queue):
            self.reply_queues[queue] = None
            self._receiver.listens(queue)

    def _regroup(self) -> None:
        self._consumed = None
        if self.connection is not None:
            self._receiver.regroup()

    def claimed_queues(self) -> list[str]:
        """The queues it claims from: consumed with acks, and no fanout."""
        return (self._consumed or self._sorted())[0]

    def popped_queues(self) -> list[str]:
        """The queues it pops from: without acks there is no lease."""
        return (self._consumed or self._sorted())[1]

    def _sorted(self) -> tuple[list[str], list[str]]:
        # Kept until consumers change: the event loop asks at every turn.
        claimed: list[str] = []
        popped: list[str] = []
        self._wholes = []
        for queue in dict.fromkeys(self._active_queues):
            if queue not in self.fanout_queues and queue not in self.reply_queues:
                names = self.broker.spread.names(queue)
                if queue in self.no_ack_queues:
                    popped += names
                else:
                    claimed += names
                    self._wholes.append(queue)
        claimed = list(dict.fromkeys(claimed))  # a partition may be consumed by its name too
        self._consumed = claimed, popped
        return self._consumed

    def _claimed_wholes(self) -> list[str]:
        """The queues it claims from: one with partitions is one of them."""
        self.claimed_queues()
        return self._wholes

    def ordered(self) -> list[str]:
        """What it claims from, in the order of `queue_order_strategy`; partitions in turn."""
        wholes = self._claimed_wholes()
        found: list[str] = list(self._order.consume(len(wholes))) if wholes else []
        if len(self.claimed_queues()) == len(wholes):  # none has partitions
            return found
        return [name for queue in found for name in self._in_turn(queue)]

    def _in_turn(self, queue: str) -> tuple[str, ...]:
        names, turn = self.broker.spread.names(queue), self._turns.get(queue, 0)
        return names[turn:] + names[:turn]

    def rotate(self, name: str) -> None:
        """A message came from this queue, or partition: others go before it next time."""
        queue = self.broker.spread.whole(name)
        self._order.rotate(queue)
        self._end_turn(queue, name)

    def _end_turn(self, queue: str, name: str) -> None:
        names = self.broker.spread.names(queue)
        if len(names) > 1 and name in names:
            self._turns[queue] = (names.index(name) + 1) % len(names)

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        """Set how many messages may be held. Celery raises it by one for each that it puts off."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self._least = min(self._least or prefetch_count, prefetch_count)
        # Three at least, if one stays in hand meanwhile: a call costs as much as a task.
        self._enough = max((self._least + 1) // 2, min(3, self._least - 1))

    def room(self, buffered: int, *, least: bool = False) -> int:
        """How many messages it is to be given now; `buffered` wait for it already.

        None if there is not enough room to be worth a call: half of what it may hold besides those
        that are put off. Any room is worth it with `least`, or where nothing waits for its turn: no
        place of a pool is idle.
        """
        qos = self.qos
        if "can_consume" in qos.__dict__:  # worker_disable_prefetch: it wants to be asked each time
            return 1 if not buffered and qos.can_consume() else 0
        if not qos.prefetch_count:
            return 0 if buffered else self._pace
        # This is asked at every turn of the event loop, so not by its method.
        free = qos.prefetch_count - len(qos._delivered) + len(qos._dirty) - buffered
        if free <= 0:
            return 0
        return free if least or free >= self._enough or not (buffered or worker.waiting()) else 0

    def pace(self) -> None:
        """Claims are sent: without a limit it gets what it takes in some 50 ms, and hoards nothing.

        Only in an event loop: a program that drains by hand may stop after any message.
        """
        now = time.monotonic()
        quick = now - self._claimed_at < PACE and self.connection.in_loop
        self._claimed_at = now
        self._pace = min(2 * self._pace, MOST_CLAIMED) if quick else max(1, self._pace // 2)

    def deliver(self, delivery: Delivery, now_ms: int) -> None:
        """Hand one claimed message to its consumer, or send it where it belongs instead.

        Raises what the consumer's callback raises, as stock does; the message stays unacked. Only
        a Celery worker, which would end of it, hears nothing of a message that it cannot take.
        """
        queue = self.broker.spread.whole(delivery.queue)
        callback = self.connection._callbacks.get(queue)
        if callback is None or queue not in self._active_queues:
            self.qos.release(delivery, counted=False)
            return
        try:
            payload = self._payload(delivery)
            headers = payload["headers"]
            eta = headers.get("eta") if isinstance(headers, dict) else None
            if eta is not None and self._too_early(delivery, eta, now_ms):
                return
        except Exception as error:  # noqa: BLE001 - whatever a foreign producer may have written
            self.qos._dead(delivery, "undecodable", error)
            return
        if queue in self._expires:
            self._touch_now_and_then(queue)
        try:
            callback(payload)
        except self.connection.connection_errors:
            raise
        except InvalidMessage as error:
            self.qos._dead(delivery, "undecodable", error)
        except Exception as error:
            if not worker.takes_tasks(self._takers.get(queue)):
                raise
            self._failed(delivery, error)

    def _payload(self, delivery: Delivery) -> dict[str, Any]:
        payload = from_json(delivery.envelope.raw.decode())
        if not isinstance(payload, dict):
            raise InvalidMessage(f"the message is not a JSON object but {type(payload).__name__}")
        properties = payload["properties"]
        info = properties.setdefault("delivery_info", {})
        properties["delivery_tag"] = delivery.receipt
        properties["x-delivery-count"] = delivery.deliveries
        headers = payload.get("headers")
        if headers is None:
            headers = payload["headers"] = {}
        if fault := task_faults.fault(headers):
            raise InvalidMessage(fault)
        if delivery.deliveries > 1:
            info["redelivered"] = True
            if "task" not in headers:
                # Stock says it here too. Celery reads the other one, and would copy this one into
                # every retry.
                headers["redelivered"] = True
        payload["atomq.delivery"] = delivery
        return payload

    def _too_early(self, delivery: Delivery, eta: Any, now_ms: int) -> bool:
        """Send back what is not due yet."""
        due_ms = eta_ms(eta)
        if due_ms is None:
            return False
        if self.settings.delay_in_server == "never":
            self.broker.keeper.put_off(delivery.receipt, (due_ms - now_ms) / 1000)
            return False
        if due_ms > now_ms + 1:
            self.qos.release(delivery, delay_ms=due_ms - now_ms, counted=False)
            return True
        due.install()
        return False

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        if worker.stopping() or worker.interrupted(error):
            # Whatever it met, it is a consumer that goes away.
            self.qos._quick_ack(delivery.receipt)
            if not delivery.settled:
                self.qos.release(delivery, front=True, counted=False)
            return
        log.error("the consumer could not take %s", delivery, exc_info=error)
        self.qos._quick_ack(delivery.receipt)
        if delivery.settled:
            return
        if delivery.charged >= FAILURES:
            self.qos._dead(delivery, "undeliverable", error)
        else:
            self.qos.release(delivery, delay_ms=200 * delivery.charged)

    def _get(self, queue: str, timeout: Any = None) -> dict[str, Any]:
        if self.broker.keeper.alone.stands_still():
            raise Empty
        delivery = self._claimed_one(queue)
        if queue in self._expires:
            self._touch_now_and_then(queue)
        try:
            return self._payload(delivery)
        except Exception as error:
            item = Rejection(delivery.receipt, "", "undecodable", str(error))
            self.broker.engine.run(calls.reject(self.broker.keys(delivery.queue), [item]))
            raise Empty from error

    def _claimed_one(self, queue: str) -> Delivery:
        """Claim one message. Raises `Empty` if no partition that answers has any."""
        self.broker.spread.all_names(queue)
        names = self._in_turn(queue)
        groups = [[name] for name in names] if self.broker.engine.layout == "cluster" else [names]
        trouble: ServerUnavailable | None = None
        for group in groups:
            asked = clock()  # it may be answered when it is asked for again, much later
            try:
                claimed = self.broker.engine.run(self.broker.claim(group, 1))
            except ServerUnavailable as error:
                trouble = error
                continue
            if found := self.broker.hold(claimed, asked):
                self._end_turn(queue, found[0].queue)
                return found[0]
        if trouble is not None:
            raise trouble
        raise Empty

    def basic_get(self, queue: str, no_ack: bool = False, **_kwargs: Any) -> Any:
        """One message, or None."""
        try:
            message = self.Message(self._get(queue), channel=self)
        except Empty:
            return None
        self.qos.append(message, message.delivery_tag)
        if no_ack:
            self.qos.ack(message.delivery_tag)
        return message

    # ── broadcasts ────────────────────────────────────────────────────────────────────────────────

    def subscriptions(self) -> list[tuple[str, str]]:
        """The patterns that its fanout consumers listen on, and the queue of each."""
        return [
            (topic, queue)
            for queue in dict.fromkeys(self._active_queues)
            if queue in self.fanout_queues
            for topic in self.topics(*self.fanout_queues[queue])
        ] + [(self.reply_topic(queue), queue) for queue in self.reply_queues]

    def repeated(self, queue: str, payload: dict[str, Any]) -> bool:
        """Whether this broadcast came already: those of our kind come on both topics."""
        if self.settings.legacy_fanout_prefix is None:
            return False
        try:
            one = (queue, payload["properties"]["delivery_tag"])
        except (KeyError, TypeError):
            return False
        if one in self._heard:
            return True
        self._heard[one] = None
        if len(self._heard) > HEARD_MOST:
            del self._heard[next(iter(self._heard))]
        return False
