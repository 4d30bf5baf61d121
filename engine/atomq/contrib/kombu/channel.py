"""The channel: declares, binds, publishes and consumes, in Kombu's words.

Queues, leases, delays and dead letters are the engine's. What is here is what Kombu's virtual
channel asks of a transport, and the wire format that stock workers share.
"""

from __future__ import annotations

import contextlib
import logging
import time
from bisect import bisect
from collections.abc import Iterator
from queue import Empty
from typing import Any, ClassVar

from kombu.exceptions import BatchPublishError, KombuError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps, loads
from kombu.utils.scheduling import cycle_by_name

from atomq import calls
from atomq.calls import Outgoing, Rejection
from atomq.contrib.kombu import due, worker
from atomq.contrib.kombu.bindings import LEAST_MS
from atomq.contrib.kombu.broker import Broker, eta_ms
from atomq.contrib.kombu.client import Client, Pool
from atomq.contrib.kombu.qos import Message, QoS
from atomq.contrib.kombu.settings import Settings
from atomq.errors import AtomqError, InvalidMessage, QueueInUse, ServerUnavailable
from atomq.fork import once
from atomq.keys import QueueKeys
from atomq.message import JSON, Delivery

log = logging.getLogger("atomq.kombu")

REPLY_TTL_MS = 60_000  # of a reply that nobody fetched: its client may be dead
CONSUMER_ALIVE_MS = 60_000  # a consumer was seen within: renewals come every 20 s at least
KEEP_EVERY = LEAST_MS / 3000  # seconds between two words for the bindings of queues that expire
MOST_CLAIMED = 100  # messages in one claim
PACE = 0.05  # seconds
HEARD_MOST = 1000  # broadcasts remembered, to know those again that come twice
FAILURES = 3  # deliveries after which what the consumer cannot take is dead


class UnroutableMessage(KombuError, AtomqError):
    """No queue is bound for this exchange and routing key, and there is no `deadletter_queue`.

    Not one of the errors of a channel: those make Kombu connect anew, maybe to another broker.
    """


class TopicExchange(virtual.exchange.TopicExchange):
    """Delivers to `deadletter_queue` too, as the other exchanges do."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        for queue in self.channel._lookup(exchange, routing_key):
            self.channel._put(queue, message, **kwargs)


class Channel(virtual.Channel):
    """A channel of our transport."""

    Message = Message
    QoS = QoS
    supports_fanout = True
    from_transport_options = ()
    exchange_types: ClassVar[Any] = {
        **virtual.Channel.exchange_types,
        "topic": TopicExchange,
    }

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        settings: Settings = connection.settings
        self.settings = settings
        self.broker: Broker = connection.broker
        self.body_encoding = settings.body_encoding
        self.deadletter_queue = settings.deadletter_queue
        # Kombu binds a queue once a connection, whichever of its channels consumes it then.
        self.fanout_queues: dict[str, tuple[str, str]] = connection.fanout_queues
        self.auto_delete_queues: set[str] = set()
        self.no_ack_queues: set[str] = set()
        self._takers: dict[str, Any] = {}
        """The consumer of each queue, where it is one of Kombu's."""
        self._expires: dict[str, int] = {}
        self._touched: dict[str, float] = {}
        self._heard: dict[tuple[str, Any], None] = {}
        self._kept_at = time.monotonic()
        self._order = cycle_by_name(settings.queue_order_strategy)()
        self._consumed: tuple[list[str], list[str]] | None = None
        self._pace, self._claimed_at = 1, 0.0
        self._least = 0  # the lowest prefetch count it was given
        self._enough = 0  # room that is worth a call

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
        unconfirmed = self.broker.unconfirmed
        call_id = unconfirmed.take(queue, message) or self.broker.engine.producers.next()
        try:
            self.broker.engine.run(
                calls.publish(keys, [outgoing], call_id=call_id, **self._window())
            )
        except ServerUnavailable:
            unconfirmed.add(queue, message, call_id)
            raise
        self._touch(queue, keys)

    def _outgoing(self, keys: QueueKeys, message: dict[str, Any]) -> Outgoing:
        headers = message.get("headers") or {}
        due_ms = None
        if headers.get("eta") is not None and self.settings.delay_in_server != "never":
            due_ms = eta_ms(headers["eta"])
        return Outgoing(
            dumps(message),
            str(headers.get("id") or message["properties"]["delivery_tag"]),
            step=keys.step_of(self._get_message_priority(message)),
            at_ms=due_ms or 0,
            alive_ms=CONSUMER_ALIVE_MS if due_ms and self.settings.delay_in_server == "auto" else 0,
        )

    def _window(self) -> dict[str, int]:
        return {"window_ms": self.broker.engine.options.call_window_ms}

    def _put_reply(self, keys: QueueKeys, message: dict[str, Any]) -> None:
        # Stock's clients wait on the list itself, and may be gone: no keys of ours, and it expires.
        self.broker.engine.command("LPUSH", keys.ready[0], dumps(message))
        self.broker.engine.command("PEXPIRE", keys.ready[0], REPLY_TTL_MS)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
        text, batch = dumps(message), kwargs.get("_publish_batch")
        for topic in self.topics(exchange, routing_key):
            if batch is not None:
                batch.add_broadcast(topic, text)
            else:
                self.broker.engine.command("PUBLISH", topic, text, patient=True)

    @property
    def supports_batch_publish(self) -> bool:
        """Not with `retry_on_timeout`, as in Kombu: then each message is sent at once."""
        return bool(self.connection.supports_batch_publish)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Kombu's `Producer.batch()`: messages that travel together."""
        return PublishBatch(self, max_size)

    # ── fanout topics ─────────────────────────────────────────────────────────────────────────

    def topics(self, exchange: str, routing_key: str) -> list[str]:
        """The server's channels that a fanout message is published to."""
        key_prefix = self.broker.engine.options.global_keyprefix
        if routing_key and self.settings.fanout_patterns:
            exchange = f"{exchange}/{routing_key}"
        prefixes = (self.settings.fanout_prefix, self.settings.legacy_fanout_prefix)
        return [f"{key_prefix}{prefix}{exchange}" for prefix in prefixes if prefix is not None]

    def subscriptions(self) -> list[tuple[str, str]]:
        """The patterns that its fanout consumers listen on, and the queue of each."""
        return [
            (topic, queue)
            for queue in dict.fromkeys(self._active_queues)
            if queue in self.fanout_queues
            for topic in self.topics(*self.fanout_queues[queue])
        ]

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

    # ── declare and bind ──────────────────────────────────────────────────────────────────────

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        self.broker.keys(queue)
        if auto_delete:
            self.auto_delete_queues.add(queue)
        expires = (kwargs.get("arguments") or {}).get("x-expires")
        if isinstance(expires, int | float) and expires > 0:
            self._expires[queue] = max(1, int(min(expires, calls.LONGEST_LIFE)))
        else:
            self._expires.pop(queue, None)

    def _has_queue(self, queue: str, **_kwargs: Any) -> bool:
        keys = self.broker.keys(queue)
        return bool(self.broker.engine.command("EXISTS", *keys.ready, keys.delayed))

    def _lists(self, queue: str) -> tuple[str, ...]:
        return self.broker.keys(queue).ready

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self.fanout_queues[queue] = (exchange, routing_key.replace("#", "*"))
            self._regroup()
        self.broker.bindings.bind(
            exchange, (routing_key or "", pattern or "", queue or ""), self._expires.get(queue)
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: Any = None,
        routing_key: str = "",
        arguments: Any = None,
        **_: Any,
    ) -> None:
        self.state.binding_delete(queue, exchange, routing_key)
        key, pattern, queue = self.typeof(exchange).prepare_bind(
            queue, exchange, routing_key, arguments
        )
        self.broker.bindings.unbind(exchange, (key or "", pattern or "", queue or ""))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete a queue that this connection declared.

        With `if_empty` only if nothing is ready or delayed: the server looks and deletes in one
        step, so that no message is lost which arrives meanwhile.
        """
        if if_empty and any(self.state.queue_bindings(queue)):
            try:
                self._drop(queue, if_empty=True)
            except QueueInUse:
                return
        super().queue_delete(queue, if_unused, dropped=if_empty, **kwargs)

    def _drop(self, queue: str, *, if_empty: bool = False) -> None:
        self.broker.engine.run(
            calls.purge(
                self.broker.keys(queue),
                ready=True,
                delayed=True,
                dead=True,
                settings=True,
                if_empty=if_empty,
            )
        )

    def _delete(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        pattern: str,
        *_args: Any,
        dropped: bool = False,
        **_kwargs: Any,
    ) -> None:
        self.auto_delete_queues.discard(queue)
        self.broker.bindings.unbind(exchange, (routing_key or "", pattern or "", queue or ""))
        if not dropped:
            self._drop(queue)

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        return self.broker.bindings.table(exchange)

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        if not exchange:
            return [routing_key or default or self.deadletter_queue or ""]
        kind, tables = self.typeof(exchange), self.broker.bindings
        for look in (tables.table, tables.read, self._healed):
            if found := kind.lookup(look(exchange), exchange, routing_key, None):
                return list(found)
        if self.deadletter_queue:
            return [self.deadletter_queue]
        if is_reply_exchange(exchange):
            log.debug("nobody waits for the reply %s any more", routing_key)
            return []
        raise UnroutableMessage(
            f"no queue is bound to exchange {exchange!r} for {routing_key!r}: declare the queue, "
            "or set the transport option deadletter_queue"
        )

    def _healed(self, exchange: str) -> list[tuple[str, ...]]:
        """The table, with what this connection bound and what is gone written once more."""
        table = self.broker.bindings.table(exchange)
        healed = False
        for queue, source, routing_key in list(self.state.bindings):
            if source == exchange:
                meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, {})
                if tuple(part or "" for part in meta) not in table:
                    self._queue_bind(exchange, *meta)
                    healed = True
        return self.broker.bindings.table(exchange) if healed else []

    def _touch(self, queue: str, keys: QueueKeys) -> None:
        """A queue that expires is used: it lives on."""
        expires = self._expires.get(queue)
        if expires is not None:
            self._touched[queue] = time.monotonic()
            self.broker.engine.run(calls.touch(keys, expires))

    def _touch_now_and_then(self, queue: str) -> None:
        since = time.monotonic() - self._touched.get(queue, 0.0)
        if since * 4000 > self._expires[queue]:
            self._touch(queue, self.broker.keys(queue))

    def maybe_refresh_binding_expiry(self) -> None:
        """Now and then: the bindings of consumed queues that expire live on, others are swept."""
        if not self._expires:
            return
        queues = [queue for queue in self._active_queues if queue in self._expires]
        now = time.monotonic()
        if not queues or now - self._kept_at < KEEP_EVERY:
            return
        self._kept_at = now
        for queue in queues:
            for exchange, routing_key, arguments in list(self.state.queue_bindings(queue)):
                kind = self.typeof(exchange)
                self._queue_bind(
                    exchange, *kind.prepare_bind(queue, exchange, routing_key, arguments)
                )
        self.sweep_bindings()

    def sweep_bindings(self, limit: int = 100) -> int:
        """Delete binding tables that no consumer spoke for in time; how many deadlines went."""
        return self.broker.bindings.sweep(limit)

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
        self._takers[queue] = getattr(callback, "__self__", None)
        self._regroup()
        self._order.update(self.claimed_queues())
        self.connection.poller.changed(keys)
        return found

    def basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        found = super().basic_cancel(consumer_tag)
        if queue is not None:
            self._takers.pop(queue, None)
            self.no_ack_queues.discard(queue)
            self._regroup()
            self._order.update(self.claimed_queues())
            if self.connection is not None:
                self.connection.poller.cancelled(self, queue)
        return found

    def _regroup(self) -> None:
        self._consumed = None
        if self.connection is not None:
            self.connection.poller.regroup()

    def claimed_queues(self) -> list[str]:
        """The queues it claims from: consumed with acks, and no fanout."""
        return (self._consumed or self._sorted())[0]

    def popped_queues(self) -> list[str]:
        """The queues it pops from: nobody acks, so nobody holds."""
        return (self._consumed or self._sorted())[1]

    def _sorted(self) -> tuple[list[str], list[str]]:
        # Kept until consumers change: the event loop asks at every turn.
        claimed: list[str] = []
        popped: list[str] = []
        for queue in dict.fromkeys(self._active_queues):
            if queue not in self.fanout_queues:
                (popped if queue in self.no_ack_queues else claimed).append(queue)
        self._consumed = claimed, popped
        return self._consumed

    def ordered(self) -> list[str]:
        """Its claimed queues, in the order of `queue_order_strategy`."""
        names = self.claimed_queues()
        return list(self._order.consume(len(names))) if names else []

    def rotate(self, queue: str) -> None:
        """A message came from this queue: others go before it next time."""
        self._order.rotate(queue)

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
        that are put off. The least room is worth it if told so, and where nothing waits for its
        turn: no place of a pool is idle.
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

        Only in an event loop: who drains by hand may stop after any message.
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
        if delivery.queue in self._expires:
            self._touch_now_and_then(delivery.queue)
        try:
            callback(payload)
        except self.connection.connection_errors:
            raise
        except InvalidMessage as error:
            self.qos._dead(delivery, "undecodable", error)
        except Exception as error:
            if not worker.takes_tasks(self._takers.get(delivery.queue)):
                raise
            self._failed(delivery, error)

    def _payload(self, delivery: Delivery) -> dict[str, Any]:
        raw = delivery.envelope.raw
        text = raw.decode()
        payload = loads(text) if '"__type__"' in text else JSON.loads(text)
        if not isinstance(payload, dict):
            raise InvalidMessage(f"the message is not a JSON object but {type(payload).__name__}")
        properties = payload["properties"]
        info = properties.setdefault("delivery_info", {})
        properties["delivery_tag"] = delivery.receipt
        properties["x-delivery-count"] = delivery.deliveries
        headers = payload.get("headers")
        if headers is None:
            headers = payload["headers"] = {}
        if fault := worker.fault(headers):
            raise InvalidMessage(fault)
        if delivery.deliveries > 1:
            info["redelivered"] = True
            if "task" not in headers:
                # Stock says it here too. Celery reads the other one, and would copy this one into
                # every retry.
                headers["redelivered"] = True
        payload["atomq.delivery"] = delivery
        return payload

    def _too_early(self, delivery: Delivery, payload: dict[str, Any], now_ms: int) -> bool:
        """Send back what is not due yet."""
        headers = payload["headers"]
        eta = headers.get("eta") if isinstance(headers, dict) else None
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
        if worker.stopping():  # whatever it met, it is a consumer that goes away
            self.qos._quick_ack(delivery.receipt)
            if not delivery.settled:
                self.broker.give_back(self.broker.keys(delivery.queue), [delivery.receipt])
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
        if self.broker.keeper.stands_still():
            raise Empty
        found = self.broker.hold(self.broker.engine.run(self.broker.claim([queue], 1)))
        if not found:
            raise Empty
        delivery = found[0]
        if queue in self._expires:
            self._touch_now_and_then(queue)
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

    # ── what programs ask stock's channel for ─────────────────────────────────────────────────

    @once
    def pool(self) -> Pool:
        """Connections for `client`; closed with the channel."""
        return Pool(self.broker.address)

    @once
    def client(self) -> Client:
        """A client of redis-py's for the broker's server. It raises redis-py's exceptions."""
        return Client(self.pool, self.global_keyprefix)

    @contextlib.contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client that was given, or else `client`."""
        yield client or self.client

    @property
    def global_keyprefix(self) -> str:
        """What stands before every key."""
        return self.broker.engine.options.global_keyprefix

    @property
    def sep(self) -> str:
        """What stands between a queue's name and the priority of a list."""
        return self.broker.engine.options.sep

    @property
    def priority_steps(self) -> list[int]:
        """The priorities that have a list of their own."""
        return list(self.broker.engine.options.priority_steps)

    @property
    def keyprefix_fanout(self) -> str:
        """What stands before the names of broadcasts."""
        return self.settings.fanout_prefix

    @property
    def visibility_timeout(self) -> float:
        """Seconds after which a stock worker takes over what another one holds."""
        return self.broker.engine.options.visibility_timeout

    @property
    def unacked_key(self) -> str:
        """Where stock workers keep what they hold."""
        return self.settings.unacked_key

    @property
    def unacked_index_key(self) -> str:
        """Where they keep since when."""
        return self.settings.unacked_index_key

    def priority(self, n: int) -> int:
        """The priority whose list a message of priority `n` goes to."""
        steps = self.priority_steps
        return steps[bisect(steps, n) - 1]

    def _q_for_pri(self, queue: str, pri: int) -> str:
        priority = self.priority(pri)
        return f"{queue}{self.sep}{priority}" if priority else queue

    def drain_events(self, timeout: Any = None, callback: Any = None) -> Any:
        return self.connection.drain_events(self.connection, timeout=timeout)

    def close(self) -> None:
        if not self.closed and self.connection is not None:
            if not self.connection.lost:
                with contextlib.suppress(AtomqError):
                    for queue in list(self.auto_delete_queues & set(self.fanout_queues)):
                        self.queue_delete(queue)
            self.connection.poller.forget(self)
        super().close()
        if "pool" in self.__dict__:
            self.pool.disconnect()


def is_reply_queue(queue: str) -> bool:
    """A queue that one client of Celery's remote control waits on: <oid>.reply.celery.pidbox."""
    return ".reply." in queue and queue.endswith(".pidbox")


def is_reply_exchange(exchange: str) -> bool:
    """Where such replies are sent: reply.celery.pidbox."""
    return exchange.startswith("reply.") and exchange.endswith(".pidbox")


class PublishBatch:
    """Messages of one `Producer.batch()`: one call a queue, all of them in one round trip."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max(1, max_size)
        self._messages: dict[QueueKeys, list[Outgoing]] = {}
        self._broadcasts: list[tuple[str, str]] = []
        self._count = 0
        self._failed: BaseException | None = None
        self._state = "open"

    def publish(self, message: Any, **kwargs: Any) -> Any:
        """Route one message; it is sent when the batch is full or flushed."""
        self._check()
        result = self.channel.basic_publish(message, _publish_batch=self, **kwargs)
        if self._count >= self.max_size:
            self.flush()
        return result

    def add(self, keys: QueueKeys, outgoing: Outgoing) -> None:
        """One message, for one queue."""
        self._messages.setdefault(keys, []).append(outgoing)
        self._count += 1

    def add_broadcast(self, topic: str, text: str) -> None:
        """One message for whoever listens."""
        self._broadcasts.append((topic, text))
        self._count += 1

    def flush(self) -> None:
        """Send what waits. Raises `BatchPublishError`: some of it may have been sent."""
        self._check()
        messages, broadcasts = self._messages, self._broadcasts
        self._forget()
        try:
            self._send(messages, broadcasts)
        except BaseException as error:
            self._failed = error
            if isinstance(error, AtomqError):
                raise BatchPublishError(f"not all of the batch was published: {error}") from error
            raise

    def _send(
        self, messages: dict[QueueKeys, list[Outgoing]], broadcasts: list[tuple[str, str]]
    ) -> None:
        broker, window = self.channel.broker, self.channel._window()
        published = [
            calls.publish(
                keys, some[i : i + calls.MOST], call_id=broker.engine.producers.next(), **window
            )
            for keys, some in messages.items()
            for i in range(0, len(some), calls.MOST)
        ]
        for result in broker.engine.run_all(published):
            if isinstance(result, AtomqError):
                raise result
        for keys in messages:
            self.channel._touch(keys.name, keys)
        for topic, text in broadcasts:
            broker.engine.command("PUBLISH", topic, text)

    def discard(self) -> None:
        """Forget what was not sent."""
        self._state = "aborted"
        self._forget()

    def close(self) -> None:
        """No more messages."""
        self._state = "closed"
        self._forget()

    def _forget(self) -> None:
        self._messages, self._broadcasts, self._count = {}, [], 0

    def _check(self) -> None:
        if self._state != "open":
            raise RuntimeError(f"this publish batch is {self._state}")
        if self._failed is not None:
            raise BatchPublishError(
                "this publish batch failed before: some of it may have been sent"
            ) from self._failed
