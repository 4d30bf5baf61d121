"""What a channel publishes: messages, broadcasts, replies of remote control, and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kombu.exceptions import BatchPublishError
from kombu.utils.json import dumps

from atomq import arguments, calls, flows
from atomq.calls import Call, Outgoing, Published
from atomq.contrib.kombu.broker import eta_ms
from atomq.contrib.kombu.declaring import Declaring, is_reply_queue
from atomq.contrib.kombu.spread import PARTITION_KEY, SpreadQueue, key_of
from atomq.durability import Durability
from atomq.errors import AtomqError, NotDurable, ServerUnavailable, UnknownPartition
from atomq.keys import QueueKeys
from atomq.message import tracked as mark_tracked

REPLY_TTL_MS = 60_000  # of a reply that was not fetched: its client may be dead
_Message = tuple[Outgoing, str | None]  # and the key that chooses its partition
_Messages = dict[tuple[QueueKeys, Durability | None], list[_Message]]
CONSUMER_ALIVE_MS = 60_000  # a consumer was seen within: renewals come every 20 s at least


class Publishing(Declaring):
    """The publishing side of a channel."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._durability = self.broker.engine.durability()

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> Any:
        """Publish a message.

        Its arguments `durability` and `tracked` are for us, and stay here. `partition_key` becomes
        a header: Celery's retries have it too.
        """
        durability = self._durability
        if "durability" in message["properties"]:
            properties = dict(message["properties"])
            durability = self.broker.engine.durability(properties.pop("durability"))
            message = {**message, "properties": properties}
        if "tracked" in message["properties"]:
            properties = dict(message["properties"])
            kwargs["tracked"] = bool(arguments.flag("tracked", properties.pop("tracked")))
            message = {**message, "properties": properties}
        if PARTITION_KEY in message["properties"]:
            properties = dict(message["properties"])
            headers = {
                **(message.get("headers") or {}),
                PARTITION_KEY: properties.pop(PARTITION_KEY),
            }
            message = {**message, "properties": properties, "headers": headers}
        if durability is not None:
            kwargs["durability"] = durability
        return super().basic_publish(message, exchange, routing_key, **kwargs)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch, durability = kwargs.get("_publish_batch"), kwargs.get("durability")
        keys = self.broker.keys(queue)
        if is_reply_queue(queue):
            self._put_reply(keys, message)
            return
        outgoing = self._outgoing(keys, message, kwargs.get("tracked"))
        spread = self.broker.spread.get(queue)
        key = key_of(message) if spread is not None else None
        if batch is not None:
            home = keys if spread is None else batch.home(spread, key)
            batch.add(home, outgoing, durability, key)
            return
        unconfirmed = self.broker.unconfirmed
        known = unconfirmed.take(queue, message)
        call_id, at = known or (self.broker.engine.producers.next(), queue)

        def publish(keys: QueueKeys) -> Call[Published]:
            nonlocal at
            at, window = keys.name, self._window()
            return calls.publish(keys, [outgoing], call_id=call_id, durability=durability, **window)

        try:
            if spread is None:
                self.broker.engine.run(publish(self.broker.keys(at)))
            else:
                again = at if known is not None else ""
                self.broker.engine.run(spread.put(publish, key, again))
        except ServerUnavailable:
            unconfirmed.add(queue, message, call_id, at)
            raise
        except NotDurable as error:
            error.ids = [outgoing.id]
            raise
        self._touch(queue)

    def _outgoing(self, keys: QueueKeys, message: dict[str, Any], tracked: Any = None) -> Outgoing:
        headers = message.get("headers") or {}
        due_ms = None
        if headers.get("eta") is not None and self.settings.delay_in_server != "never":
            due_ms = eta_ms(headers["eta"])
        text, name = dumps(message), headers.get("id") or message["properties"]["delivery_tag"]
        if tracked is None:
            tracked = self.settings.tracked
            tracked = tracked if isinstance(tracked, bool) else keys.name in tracked
        if tracked:
            name = message["properties"].get("message_id") or name
            text = mark_tracked(text, str(name))
        return Outgoing(
            text,
            str(name),
            step=keys.step_of(self._get_message_priority(message)),
            at_ms=due_ms or 0,
            alive_ms=CONSUMER_ALIVE_MS if due_ms and self.settings.delay_in_server == "auto" else 0,
            tracked=tracked,
        )

    def _window(self) -> dict[str, int]:
        return {"window_ms": self.broker.engine.options.call_window_ms}

    def reply_topic(self, queue: str) -> str:
        """The channel that replies are published to, on a cluster: they need no shard then."""
        key_prefix = self.broker.engine.prefix
        return f"{key_prefix}{self.settings.fanout_prefix}reply/{queue}"

    def _put_reply(self, keys: QueueKeys, message: dict[str, Any]) -> None:
        if self.broker.on_cluster:
            topic = self.reply_topic(keys.name)
            self.broker.engine.command("PUBLISH", topic, dumps(message), patient=True)
            return
        self.broker.engine.run(calls.reply(keys, dumps(message), ttl_ms=REPLY_TTL_MS))

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

    def topics(self, exchange: str, routing_key: str) -> list[str]:
        """The server's channels that a fanout message is published to."""
        key_prefix = self.broker.engine.prefix
        if routing_key and self.settings.fanout_patterns:
            exchange = f"{exchange}/{routing_key}"
        prefixes = (self.settings.fanout_prefix, self.settings.legacy_fanout_prefix)
        return [f"{key_prefix}{prefix}{exchange}" for prefix in prefixes if prefix is not None]


class PublishBatch:
    """Messages of one `Producer.batch()`: one call a queue, all of them in one round trip."""

    def __init__(self, channel: Publishing, max_size: int) -> None:
        self.channel = channel
        self.max_size = max(1, max_size)
        self._messages: _Messages = {}
        self._broadcasts: list[tuple[str, str]] = []
        self._homes: dict[str, QueueKeys] = {}  # of queues with partitions: one for the whole batch
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

    def add(
        self,
        keys: QueueKeys,
        outgoing: Outgoing,
        durability: Durability | None = None,
        key: str | None = None,
    ) -> None:
        """One message, for one queue; in a partition, with the key that led there."""
        self._messages.setdefault((keys, durability), []).append((outgoing, key))
        self._count += 1

    def home(self, spread: SpreadQueue, key: str | None) -> QueueKeys:
        """The partition of a message: that of its key, else that of the others of this batch."""
        if key is None and (found := self._homes.get(spread.name)) is not None:
            return found
        found = spread.keys_at(self.channel.broker.engine.run(spread.home(key)))
        if key is None:
            self._homes[spread.name] = found
        return found

    def add_broadcast(self, topic: str, text: str) -> None:
        """One message for all that listen."""
        self._broadcasts.append((topic, text))
        self._count += 1

    def flush(self) -> None:
        """Send what waits. Raises `BatchPublishError`: some of it may have been sent."""
        self._check()
        messages, broadcasts, homes = self._messages, self._broadcasts, self._homes
        self._forget()
        try:
            self._send(messages, broadcasts, homes)
        except BaseException as error:
            self._failed = error
            if isinstance(error, AtomqError):
                raise BatchPublishError(f"not all of the batch was published: {error}") from error
            raise

    def _send(
        self,
        messages: _Messages,
        broadcasts: list[tuple[str, str]],
        homes: dict[str, QueueKeys],
    ) -> None:
        broker, window = self.channel.broker, self.channel._window()

        def publishing(
            some: Sequence[_Message], durability: Durability | None
        ) -> Callable[[QueueKeys], Call[Published]]:
            call_id, outgoing = broker.engine.producers.next(), [each for each, _ in some]
            return lambda keys: calls.publish(
                keys, outgoing, call_id=call_id, durability=durability, **window
            )

        published = [
            (keys, publishing(some, durability), some, durability)
            for (keys, durability), waiting in messages.items()
            for some in flows.batches(waiting)
        ]
        results = broker.engine.run_all([publish(keys) for keys, publish, *_ in published])
        for (keys, publish, some, durability), result in zip(published, results, strict=True):
            spread = broker.spread.get(broker.spread.whole(keys.name))
            if not isinstance(result, AtomqError):
                continue
            if isinstance(result, UnknownPartition) and spread is not None:
                for key in dict.fromkeys(key for _, key in some):
                    those = [each for each in some if each[1] == key]
                    broker.engine.run(spread.put(publishing(those, durability), key))
                continue
            is_unsent = isinstance(result, ServerUnavailable) and result.unsent
            if spread is None or homes.get(spread.name) is not keys or not is_unsent:
                raise result
            broker.engine.run(spread.put(publish, None))  # another partition will do
        for keys, _ in messages:
            self.channel._touch(broker.spread.whole(keys.name))
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
        self._messages, self._broadcasts, self._homes, self._count = {}, [], {}, 0

    def _check(self) -> None:
        if self._state != "open":
            raise RuntimeError(f"this publish batch is {self._state}")
        if self._failed is not None:
            raise BatchPublishError(
                "this publish batch failed before: some of it may have been sent"
            ) from self._failed
