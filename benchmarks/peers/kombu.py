"""Kombu: its own Redis transport, and atomq's."""

from __future__ import annotations

import threading
import time
from typing import Any

from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub, set_event_loop

from benchmarks.peer import Peer, handled


class Stock(Peer):
    """`redis://`: one consumer with a hub, as Celery has it; several with `drain_events`."""

    scheme = "redis"

    def open(self) -> None:
        self._url = self.url.replace("redis", self.scheme, 1)
        self._connection = Connection(self._url)
        channel = self._connection.channel()
        Queue("bench")(channel).declare()
        self._producer = Producer(channel)

    def publish(self, pad: str, count: int) -> None:
        for _ in range(count):
            body = {"at": time.monotonic(), "pad": pad}
            self._producer.publish(body, exchange="", routing_key="bench")

    def consume(self, number: int) -> None:
        self.open()
        if number == 1:
            self._with_hub()
        for _ in range(number):
            threading.Thread(target=self._drain, daemon=True).start()
        threading.Event().wait()

    def _with_hub(self) -> None:
        hub = Hub()
        set_event_loop(hub)
        connection = Connection(self._url)
        connection.register_with_event_loop(hub)
        with Consumer(connection, [Queue("bench")], on_message=self._handle):
            hub.run_forever()

    def _drain(self) -> None:
        connection = Connection(self._url)
        with Consumer(connection, [Queue("bench")], on_message=self._handle):
            while True:
                connection.drain_events()

    def _handle(self, message: Any) -> None:
        handled(message.payload["at"])
        message.ack()


class Atomq(Stock):
    """`atomq://`, and nothing else changed."""

    scheme = "atomq"
