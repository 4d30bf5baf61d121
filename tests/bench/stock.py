"""The peer: Kombu's own Redis transport with a hub, as Celery uses it."""

from __future__ import annotations

from typing import Any, Self

from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub, set_event_loop


class Stock:
    """One connection that publishes and one that consumes, on one queue."""

    def __init__(self, url: str, queue: str) -> None:
        self._hub = Hub()
        set_event_loop(self._hub)
        self._out = Connection(url)
        self._in = Connection(url)
        self._producer = Producer(self._out.channel())
        self._exchange = Exchange(queue, type="direct")
        self._queue = Queue(queue, self._exchange, routing_key=queue)
        self._queue.bind(self._producer.channel).declare()
        self.published = 0
        """What was published and is not consumed yet."""
        self._in.register_with_event_loop(self._hub)
        self._left = 0
        self._consumer = Consumer(self._in, [self._queue], on_message=self._handle)

    def publish(self, body: Any, count: int, *, routed: bool = True) -> int:
        """Publish so many messages, one by one: stock has no other way.

        `routed` goes through an exchange, as `SimpleQueue` does: a command to
        find the queues and one to push. Otherwise the default exchange, which is the queue's name.
        """
        exchange = self._exchange if routed else ""
        for _ in range(count):
            self._producer.publish(body, exchange=exchange, routing_key=self._queue.name)
        self.published += count
        return count

    def consume(self) -> int:
        """Consume and ack all that was published."""
        count, self._left, self.published = self.published, self.published, 0
        with self._consumer:
            loop = self._hub.create_loop()
            while self._left:
                next(loop)
        return count

    def _handle(self, message: Any) -> None:
        self._left -= message.payload["n"]
        message.ack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._out.close()
        self._hub.close()
        set_event_loop(None)
