"""Which queue goes first, as `queue_order_strategy` says; the same on stock."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue

import atomq.celery
from tests.contrib.rig import ON_ONE_KIND, ours
from tests.servers import Server

atomq.celery.register()


@ON_ONE_KIND
@pytest.mark.parametrize("side", ["stock", "atomq"])
@pytest.mark.parametrize(
    ("strategy", "order"),
    [("round_robin", "bacbac"), ("priority", "bbaacc"), ("sorted", "aabbcc")],
)
def test_queue_order(server: Server, side: str, strategy: str, order: str) -> None:
    url = server.url if side == "stock" else ours(server.url)
    options: dict[str, Any] = {"queue_order_strategy": strategy}
    got: list[str] = []

    def on_message(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with Connection(url, transport_options=options) as connection:
        queues = [Queue(name) for name in "bac"]
        producer = Producer(connection)
        for name in "abcabc":
            producer.publish(name, routing_key=name)
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        with Consumer(channel, queues, callbacks=[on_message]):
            while len(got) < len(order):
                connection.drain_events(timeout=3)
    assert "".join(got) == order
