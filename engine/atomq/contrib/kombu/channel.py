"""The channel: declares, binds, publishes and consumes, in Kombu's words.

Queues, leases, delays and dead letters are the engine's. What is here is what Kombu's virtual
channel asks of a transport, and the wire format that stock workers share.
"""

from __future__ import annotations

import json
import logging
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps, loads
from kombu.utils.scheduling import cycle_by_name

from atomq import calls
from atomq.calls import Outgoing, Rejection
from atomq.contrib.kombu.broker import Broker, eta_ms
from atomq.contrib.kombu.qos import Message, QoS, stopping
from atomq.contrib.kombu.settings import Settings
from atomq.errors import AtomqError, InvalidMessage
from atomq.keys import QueueKeys
from atomq.message import Delivery

log = logging.getLogger("atomq.kombu")

REPLY_TTL_MS = 60_000  # of a reply that nobody fetched: its client may be dead
CONSUMER_ALIVE_MS = 60_000  # a consumer was seen within: renewals come every 20 s at least
FAILURES = 3  # deliveries after which what the consumer cannot take is dead


class UnroutableMessage(ChannelError, AtomqError):
    """No queue is bound for this exchange and routing key, and there is no `deadletter_queue`."""


class Channel(virtual.Channel):
    """A channel of our transport."""

    Message = Message
    QoS = QoS
    supports_fanout = True
    from_transport_options = ()
    keyprefix_queue = "_kombu.binding.%s"

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        settings: Settings = connection.settings
        self.settings = settings
        self.broker: Broker = connection.broker
        self.body_encoding = settings.body_encoding
        self.deadletter_queue = settings.deadletter_queue
        self.fanout_queues: dict[str, tuple[str, str]] = {}
        self.auto_delete_queues: set[str] = set()
        self.no_ack_queues: set[str] = set()
        self._expires: dict[str, int] = {}
        self._order = cycle_by_name(settings.queue_order_strategy)()

    # ── publish ───────────────────────────────────────────────────────────────────────────────

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        keys = self.broker.keys(queue)
        if is_reply_queue(queue):
            self._put_reply(keys, message)
            return
        outgoing = self._outgoing(keys, message)
        if batch is not None:
            batch.add(keys, outgoing)
            return
        self.broker.engine.run(
            calls.publish(keys, [outgoing], call_id=self.broker.ids.next(), **self._window())
        )
        self._touch(queue, keys)

    def _outgoing(self, keys: QueueKeys, message: dict[str, Any]) -> Outgoing:
        headers = message.get("headers") or {}
        due = None
        if headers.get("eta") is not None and self.settings.delay_in_server != "never":
            due = eta_ms(headers["eta"], utc=True)
        return Outgoing(
            dumps(message),
            str(headers.get("id") or message["properties"]["delivery_tag"]),
            step=keys.step_of(self._get_message_priority(message)),
            at_ms=due or 0,
            alive_ms=CONSUMER_ALIVE_MS if due and self.settings.delay_in_server == "auto" else 0,
        )

    def _window(self) -> dict[str, int]:
        return {"window_ms": self.broker.engine.options.dedup_window_ms}

    def _put_reply(self, keys: QueueKeys, message: dict[str, Any]) -> None:
        # Stock's clients wait on the list itself, and may be gone: no keys of ours, and it expires.
        self.broker.engine.command("LPUSH", keys.ready[0], dumps(message))
        self.broker.engine.command("PEXPIRE", keys.ready[0], REPLY_TTL_MS)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_kwargs: Any) -> None:
        topic = self.publish_topic(exchange, routing_key)
        self.broker.engine.command("PUBLISH", topic, dumps(message))

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Kombu's `Producer.batch()`: messages that travel together."""
        return PublishBatch(self, max_size)

    # ── fanout topics ─────────────────────────────────────────────────────────────────────────

    def publish_topic(self, exchange: str, routing_key: str) -> str:
        """The channel that a fanout message is published to."""
        prefix = self.broker.engine.options.global_keyprefix + self.settings.fanout_prefix
        if routing_key and self.settings.fanout_patterns:
            return f"{prefix}{exchange}/{routing_key}"
        return f"{prefix}{exchange}"

    def subscriptions(self) -> dict[str, str]:
        """The patterns that its fanout consumers listen on, and the queue of each."""
        return {
            self.publish_topic(*self.fanout_queues[queue]): queue
            for queue in self._active_queues
            if queue in self.fanout_queues
        }

    # ── declare and bind ──────────────────────────────────────────────────────────────────────

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        self.broker.keys(queue)
        if auto_delete:
            self.auto_delete_queues.add(queue)
        expires = (kwargs.get("arguments") or {}).get("x-expires")
        if isinstance(expires, int | float) and expires > 0:
            self._expires[queue] = int(expires)
        else:
            self._expires.pop(queue, None)

    def _has_queue(self, queue: str, **_kwargs: Any) -> bool:
        return bool(self.broker.engine.command("EXISTS", *self._lists(queue)))

    def _lists(self, queue: str) -> tuple[str, ...]:
        return self.broker.keys(queue).ready

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self.fanout_queues[queue] = (exchange, routing_key.replace("#", "*"))
        self.broker.bind(exchange, (routing_key or "", pattern or "", queue or ""))

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *_args: Any, **_kwargs: Any
    ) -> None:
        self.auto_delete_queues.discard(queue)
        self.broker.unbind(exchange, (routing_key or "", pattern or "", queue or ""))
        keys = self.broker.keys(queue)
        self.broker.engine.run(
            calls.purge(keys, ready=True, delayed=True, dead=True, settings=True)
        )

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        return self.broker.table(exchange)

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        if not exchange:
            return [routing_key or default or self.deadletter_queue or ""]
        kind = self.typeof(exchange)
        for fresh in (False, True):
            table = self.broker.table(exchange, fresh=fresh)
            if found := kind.lookup(table, exchange, routing_key, None):
                return list(found)
        if self._heal(exchange):
            return list(kind.lookup(self.broker.table(exchange), exchange, routing_key, None))
        if self.deadletter_queue:
            return [self.deadletter_queue]
        if is_reply_exchange(exchange):
            log.debug("nobody waits for the reply %s any more", routing_key)
            return []
        raise UnroutableMessage(
            f"no queue is bound to exchange {exchange!r} for {routing_key!r}: declare the queue, "
            "or set the transport option deadletter_queue"
        )

    def _heal(self, exchange: str) -> bool:
        """Write the bindings of this exchange that this connection declared once more."""
        healed = False
        for queue, source, routing_key in list(self.state.bindings):
            if source == exchange:
                meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, {})
                self._queue_bind(exchange, *meta)
                healed = True
        return healed

    def _touch(self, queue: str, keys: QueueKeys) -> None:
        expires = self._expires.get(queue)
        if expires is not None:
            for key in (*keys.ready, keys.meta, keys.stats, keys.wake):
                self.broker.engine.command("PEXPIRE", key, expires)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    # ── what is in a queue ────────────────────────────────────────────────────────────────────

    def _size(self, queue: str) -> int:
        return sum(self.broker.engine.command("LLEN", key) for key in self._lists(queue))

    def _purge(self, queue: str) -> int:
        gone = self.broker.engine.run(
            calls.purge(self.broker.keys(queue), ready=True, delayed=True)
        )
        return gone.ready + gone.delayed

    # ── consume ───────────────────────────────────────────────────────────────────────────────

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        keys = self.broker.keys(queue)
        if no_ack:
            self.no_ack_queues.add(queue)
        found = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self._order.update(self.claimed_queues())
        self.connection.poller.changed(keys)
        return found

    def basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        found = super().basic_cancel(consumer_tag)
        if queue is not None:
            self.no_ack_queues.discard(queue)
            self._order.update(self.claimed_queues())
            if self.connection is not None:
                self.connection.poller.cancelled(self, queue)
        return found

    def claimed_queues(self) -> list[str]:
        """The queues it claims from: consumed with acks, and no fanout."""
        return [
            queue
            for queue in dict.fromkeys(self._active_queues)
            if queue not in self.fanout_queues and queue not in self.no_ack_queues
        ]

    def popped_queues(self) -> list[str]:
        """The queues it pops from: nobody acks, so nobody holds."""
        return [
            queue
            for queue in dict.fromkeys(self._active_queues)
            if queue not in self.fanout_queues and queue in self.no_ack_queues
        ]

    def ordered(self) -> list[str]:
        """Its claimed queues, in the order of `queue_order_strategy`."""
        names = self.claimed_queues()
        return list(self._order.consume(len(names))) if names else []

    def rotate(self, queue: str) -> None:
        """A message came from this queue: others go before it next time."""
        self._order.rotate(queue)

    def free(self, buffered: int) -> int:
        """How many messages it may be given now; `buffered` wait for it already."""
        qos = self.qos
        if "can_consume" in qos.__dict__:  # worker_disable_prefetch: it wants to be asked each time
            return 1 if not buffered and qos.can_consume() else 0
        if not qos.prefetch_count:
            return 0 if buffered else 1
        return max(0, int(qos.can_consume_max_estimate()) - buffered)

    def deliver(self, delivery: Delivery, now_ms: int) -> None:
        """Hand one claimed message to its consumer, or send it where it belongs instead."""
        callback = self.connection._callbacks.get(delivery.queue)
        if callback is None or delivery.queue not in self._active_queues:
            self.qos.release(delivery, counted=False)
            return
        try:
            payload = self._payload(delivery)
            if self._too_early(delivery, payload, now_ms):
                return
        except Exception as error:  # noqa: BLE001 - whatever a foreign producer may have written
            self.qos._dead(delivery, "undecodable", error)
            return
        try:
            callback(payload)
        except self.connection.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 - one bad message must not end the worker
            self._failed(delivery, error)

    def _payload(self, delivery: Delivery) -> dict[str, Any]:
        raw = delivery.envelope.raw
        payload = loads(raw.decode()) if b'"__type__"' in raw else json.loads(raw)
        if not isinstance(payload, dict):
            raise InvalidMessage(f"the message is not a JSON object but {type(payload).__name__}")
        properties = payload["properties"]
        info = properties.setdefault("delivery_info", {})
        properties["delivery_tag"] = delivery.receipt
        properties["x-delivery-count"] = delivery.deliveries
        if delivery.deliveries > 1:
            info["redelivered"] = True
        if payload.get("headers") is None:
            payload["headers"] = {}
        payload["atomq.delivery"] = delivery
        return payload

    def _too_early(self, delivery: Delivery, payload: dict[str, Any], now_ms: int) -> bool:
        """Send back what is not due yet; what the server found due has no eta left."""
        headers = payload["headers"]
        eta = headers.get("eta") if isinstance(headers, dict) else None
        if eta is None or self.settings.delay_in_server == "never":
            return False
        due = eta_ms(eta, utc=True)
        if due is None:
            return False
        if due > now_ms + 1:
            self.qos.release(delivery, delay_ms=due - now_ms, counted=False)
            return True
        headers["eta"] = None
        return False

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        if stopping():  # whatever it met, it is a consumer that goes away
            self.qos._quick_ack(delivery.receipt)
            if not delivery.settled:
                self.broker.give_back(self.broker.keys(delivery.queue), [delivery.receipt])
            return
        log.error("the consumer could not take %s", delivery, exc_info=error)
        self.qos._quick_ack(delivery.receipt)
        if delivery.settled:
            return
        if delivery.deliveries >= FAILURES:
            self.qos._dead(delivery, "undeliverable", error)
        else:
            self.qos.release(delivery, delay_ms=200 * delivery.deliveries)

    def _get(self, queue: str, timeout: Any = None) -> dict[str, Any]:
        found = self.broker.engine.run(self.broker.claim([queue], 1))
        if not found.deliveries:
            raise Empty
        delivery = found.deliveries[0]
        self.broker.keeper.hold(self.broker.keys(queue), [delivery])
        try:
            return self._payload(delivery)
        except Exception as error:
            item = Rejection(delivery.receipt, "", "undecodable", str(error))
            self.broker.engine.run(calls.reject(self.broker.keys(queue), [item]))
            raise Empty from error

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

    def drain_events(self, timeout: Any = None, callback: Any = None) -> Any:
        return self.connection.drain_events(self.connection, timeout=timeout)

    def close(self) -> None:
        if not self.closed and self.connection is not None:
            if not self.connection.lost:
                for queue in list(self.auto_delete_queues & set(self.fanout_queues)):
                    self.queue_delete(queue)
            self.connection.poller.forget(self)
        super().close()


def is_reply_queue(queue: str) -> bool:
    """A queue that one client of Celery's remote control waits on: <oid>.reply.celery.pidbox."""
    return ".reply." in queue and queue.endswith(".pidbox")


def is_reply_exchange(exchange: str) -> bool:
    """Where such replies are sent: reply.celery.pidbox."""
    return exchange.startswith("reply.") and exchange.endswith(".pidbox")


class PublishBatch:
    """Messages of one `Producer.batch()`, published in calls of up to 1,000 a queue."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max(1, min(max_size, calls.MOST))
        self._waiting: dict[QueueKeys, list[Outgoing]] = {}
        self._closed = False

    def publish(self, message: Any, **kwargs: Any) -> Any:
        """Route one message; it is sent when the batch is full or flushed."""
        if self._closed:
            raise RuntimeError("this publish batch is closed")
        return self.channel.basic_publish(message, _publish_batch=self, **kwargs)

    def add(self, keys: QueueKeys, outgoing: Outgoing) -> None:
        """One message, for one queue."""
        waiting = self._waiting.setdefault(keys, [])
        waiting.append(outgoing)
        if len(waiting) >= self.max_size:
            self._send(keys, self._waiting.pop(keys))

    def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            keys, messages = self._waiting.popitem()
            self._send(keys, messages)

    def discard(self) -> None:
        """Forget what was not sent."""
        self._waiting.clear()

    def close(self) -> None:
        """No more messages."""
        self._closed = True
        self._waiting.clear()

    def _send(self, keys: QueueKeys, messages: list[Outgoing]) -> None:
        broker = self.channel.broker
        broker.engine.run(
            calls.publish(keys, messages, call_id=broker.ids.next(), **self.channel._window())
        )
