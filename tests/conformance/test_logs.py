"""What the log says of a message: which one it is, in the text and in fields of the record."""

from __future__ import annotations

import logging

import pytest

from atomq import Queue
from tests.servers import Server, wait_until

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def fields(record: logging.LogRecord) -> tuple[object, ...]:
    names = ("queue", "message_id", "delivery", "max_deliveries", "next_try")
    return tuple(getattr(record, name) for name in names)


def test_a_failed_handler_is_logged_with_its_message_and_the_next_try(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Queue("logs", server.url, max_deliveries=2, backoff=lambda _: 0.01) as queue:
        queue.put("x", id="order-17")
        assert queue.work(lambda _: 1 / 0, timeout=1) == 2
    first, last = (r for r in caplog.records if "the handler failed" in r.getMessage())
    assert fields(first) == ("logs", "order-17", 1, 2, 0.01)
    assert fields(last) == ("logs", "order-17", 2, 2, None)
    assert "<Message order-17 of 'logs', delivery 1 of 2, receipt " in first.getMessage()
    assert first.getMessage().endswith("the handler failed, it is tried again in 0.0 s")
    assert last.getMessage().endswith("the handler failed, it goes to dead letters")
    assert first.exc_info


def test_a_message_without_an_id_says_so(server: Server) -> None:
    with Queue("logs", server.url) as queue:
        server.client().lpush("logs", '{"body": 5, "properties": 5}')
        message = queue.claim()
        assert message is not None
        assert "<Message without an id of 'logs', delivery 1 of 20, receipt " in repr(message)
        assert not message.undecodable, "nobody asked for a part of it"


def test_a_lost_lease_is_logged_with_its_message(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Queue("logs", server.url, lease=0.3) as queue:
        queue.put("x", id="order-17")
        message = queue.claim()
        assert message is not None
        server.client().delete(queue.keys.unacked, queue.keys.records)
        wait_until("the renewal to find nothing", lambda: message.lost)
    (record,) = (r for r in caplog.records if "lost the lease" in r.getMessage())
    assert fields(record) == ("logs", "order-17", 1, 20, None)
    assert "order-17 of 'logs'" in record.getMessage()


def test_an_ack_that_came_too_late_names_the_message_that_is_tracked(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Queue("logs", server.url) as queue:
        queue.put("x", id="order 17", tracked=True)
        queue.put("y")
        for message in queue.consume(timeout=0):
            with message:  # its ack goes along with the next claim
                server.client().delete(queue.keys.unacked, queue.keys.records)
    late = [r for r in caplog.records if r.getMessage().endswith("acked too late")]
    assert {getattr(r, "message_id", "") for r in late} == {"order 17", None}
    assert any(r.getMessage().startswith("message order 17 of 'logs' went") for r in late)
    assert all(getattr(r, "queue", "") == "logs" for r in late)
