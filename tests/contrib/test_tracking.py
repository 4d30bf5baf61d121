"""What the server remembers of what a waiting consumer reads: the lists that others may fill."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

import atomq.celery
from tests.servers import Server, wait_until

atomq.celery.register()


def drain(connection: Connection, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=seconds)


@pytest.mark.parametrize("kind", ["redis-6.2", "valkey-9"], indirect=True)
@pytest.mark.parametrize("count", [5, 60])
def test_a_wait_costs_what_changed_and_not_what_is_consumed(server: Server, count: int) -> None:
    """As a solo worker has it: a message is worked on while it is handed over."""
    db, many = server.client(), 20
    got: list[Any] = []

    def commands() -> int:
        stats: Any = db.info("commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    def receive(connection: Connection, queue: str) -> None:
        producer.publish("x", routing_key=queue)
        wait_until("the message", lambda: drain(connection, 0.1) or got)
        got.clear()

    with Connection(server.url.replace("redis+socket", "atomq+socket")) as connection:
        queues = [Queue(f"q{i}", routing_key=f"q{i}") for i in range(count)]
        producer = connection.Producer()
        with Consumer(connection, queues, callbacks=[lambda body, m: got.append(body) or m.ack()]):
            for n in range(3):  # it claims from all, and is elected watcher of all
                receive(connection, f"q{n}")
                drain(connection, 0.1)
            before = commands()
            for n in range(many):
                receive(connection, f"q{n % count}")
            assert (commands() - before) / many < 60


def test_what_waiting_costs_the_server_grows_no_faster_than_its_queues(server: Server) -> None:
    """Once a second a worker that waits claims from all of its queues."""
    db = server.client()

    def spent_us(count: int) -> int:
        got: list[Any] = []
        with Connection(server.url.replace("redis+socket", "atomq+socket")) as connection:
            queues = [Queue(f"{count}.{i}", routing_key=f"{count}.{i}") for i in range(count)]
            callbacks = [lambda body, m: got.append(body) or m.ack()]
            with Consumer(connection, queues, callbacks=callbacks):
                for _ in range(2):  # it has waited, and tracks what it reads
                    connection.Producer().publish("x", routing_key=f"{count}.1")
                    wait_until("the message", lambda: drain(connection, 0.1) or got)
                    got.clear()
                db.config_resetstat()
                drain(connection, 1.2)
                stats: Any = db.info("commandstats")
                return int(sum(each["usec"] for name, each in stats.items() if "eval" in name))

    few, many = spent_us(10), spent_us(100)
    assert many < 25 * few, "ten times the queues; the square would be a hundred"


@pytest.mark.parametrize("count", [5, 40])
def test_claims_are_not_tracked(server: Server, count: int) -> None:
    """Redis up to 7.0 remembers all keys of a script for each that it reads: the square."""
    db = server.client()
    got: list[Any] = []

    def stats(name: str) -> int:
        return int(db.info("stats")[name])

    with Connection(server.url.replace("redis+socket", "atomq+socket")) as connection:
        queues = [Queue(f"q{i}", routing_key=f"q{i}") for i in range(count)]
        with Consumer(connection, queues, callbacks=[lambda body, m: got.append(body) or m.ack()]):
            wait_until("its wait", lambda: drain(connection, 0.1) or stats("tracking_total_keys"))
            for _ in range(3):  # the second and the third are claimed by one that has waited
                connection.Producer().publish("x", routing_key="q1")
                wait_until("the message", lambda: drain(connection, 0.1) or got)
                got.clear()
                drain(connection, 0.1)
            tracked = stats("tracking_total_keys"), stats("tracking_total_items")
            assert max(tracked) <= 4 * count, "four ready lists a queue"
