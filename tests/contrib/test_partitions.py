"""Celery and Kombu on a queue over several partitions: the transport option `partitions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import OperationalError

import atomq
from atomq import InvalidArgument, InvalidOptions, ServerUnavailable
from atomq.contrib import fleet
from atomq.contrib.kombu import spread
from atomq.contrib.kombu.broker import broker_of
from tests.contrib.rig import LONG, ON_ONE_KIND, Place, ours
from tests.servers import Cluster, Server, wait_until

pytestmark = ON_ONE_KIND
ORDERS = Queue("orders", Exchange("orders"), routing_key="orders")


class Broker(NamedTuple):
    """Where the queue lies."""

    url: str
    library: str
    node: Server

    @contextmanager
    def connected(self, count: int = 4, **options: Any) -> Iterator[Connection]:
        options = {"partitions": {"orders": count}, **options}
        with Connection(self.url, transport_options=options) as connection:
            yield connection

    @contextmanager
    def queue(self, count: int = 4) -> Iterator[Any]:
        """The same queue, as the library has it."""
        with atomq.Queue("orders", self.library, partitions=count) as found:
            yield found


@pytest.fixture(params=["server", "cluster"])
def broker(request: pytest.FixtureRequest, server: Server, cluster: Cluster) -> Broker:
    if request.param == "server":
        return Broker(ours(server.url), server.url, server)
    url = cluster.url.replace("redis://", "atomq-cluster://")
    return Broker(url, url, cluster.nodes[0])


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    """What tests before this one said and read is known to the process, and would be in force."""
    for known in broker_of.made():
        known.spread._queues.clear()
        known.spread._wholes.clear()


def put(producer: Producer, body: Any, **more: Any) -> None:
    producer.publish(body, exchange=ORDERS.exchange, routing_key="orders", declare=[ORDERS], **more)


def ready(queue: Any) -> list[int]:
    return [part.state().ready for part in queue.partitions()]


def drained(connection: Connection, there: Callable[[], object], seconds: float = 8.0) -> None:
    def comes() -> object:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        return there()

    if not there():
        wait_until("the messages", comes, seconds)


@contextmanager
def consuming(connection: Connection, *queues: Queue, prefetch: int = 0) -> Iterator[list[Any]]:
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with Consumer(
        connection, list(queues or [ORDERS]), callbacks=[take], prefetch_count=prefetch or None
    ):
        yield got


# ── publish ───────────────────────────────────────────────────────────────────────────────────


def test_messages_go_to_one_partition_after_another_and_stay_together_by_key(
    broker: Broker,
) -> None:
    with broker.connected() as connection, broker.queue() as queue:
        producer = connection.Producer()
        for n in range(8):
            put(producer, n)
        assert ready(queue) == [2, 2, 2, 2]
        before = Counter(dict(enumerate(ready(queue))))
        for n in range(5):
            put(producer, n, partition_key="customer-7")
        home = queue.put("of the library", key="customer-7").queue
        grown = Counter(dict(enumerate(ready(queue)))) - before
        assert list(grown.values()) == [6]
        assert home.state().ready == 8
        assert connection.default_channel.queue_declare("orders", passive=True).message_count == 14
        with pytest.raises(InvalidArgument, match="key"):
            put(producer, 1, partition_key=7)
        assert connection.default_channel.queue_purge("orders") == 14
        assert ready(queue) == [0, 0, 0, 0]


def test_a_batch_stays_whole(broker: Broker) -> None:
    with broker.connected() as connection, broker.queue() as queue:
        producer = connection.Producer()
        put(producer, 0)
        queue.purge()
        for _ in range(2):
            with producer.batch():
                for n in range(5):
                    put(producer, n)
        assert sorted(ready(queue)) == [0, 0, 5, 5]


def test_a_publish_without_an_answer_goes_to_its_own_partition_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker.connected() as connection, broker.queue() as queue:
        producer = connection.Producer()
        put(producer, "before")
        engine = connection.default_channel.broker.engine
        run, lost = engine._run_one, []

        def losing(call: Any) -> Any:
            found = run(call)
            if call.script.name == "publish" and len(lost) < 2:
                lost.append(call)
                raise ServerUnavailable("no answer")
            return found

        monkeypatch.setattr(engine, "_run_one", losing)
        for _ in range(2):
            if len(lost) < 2:
                with pytest.raises((ServerUnavailable, OperationalError)):
                    put(producer, "once")
        put(producer, "once")
        assert sum(ready(queue)) == 2
        assert len(lost) == 2


# ── consume ───────────────────────────────────────────────────────────────────────────────────


def test_a_consumer_takes_from_all_partitions_in_turn(broker: Broker) -> None:
    other = Queue("other", Exchange("other"), routing_key="other")
    with broker.connected() as out, broker.connected() as connection, broker.queue() as queue:
        for part in queue.partitions():
            part.put_many([part.name] * 4)
        for _ in range(4):
            out.Producer().publish(
                "other", exchange=other.exchange, routing_key="other", declare=[other]
            )
        with consuming(connection, ORDERS, other, prefetch=1) as got:
            drained(connection, lambda: len(got) >= 10)
            count = Counter(got[:10])
            assert set(count) == {"other", *(part.name for part in queue.partitions())}
            assert count["other"] >= 3, "a queue's turn comes after each of another queue"
            drained(connection, lambda: len(got) == 20)
            producer = out.Producer()
            for n in range(4):  # one that waits is woken, whichever partition it is
                put(producer, n)
                drained(connection, lambda: got[-1] == n)  # noqa: B023 - it is called at once
        wait_until("the acks", lambda: not queue.state().unacked)


def test_partitions_that_are_added_are_consumed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread, "READ_AGAIN", 0.1)
    with broker.connected(2) as connection, broker.connected(2) as popping:
        with consuming(connection) as got, broker.queue(4) as queue:
            for part in queue.partitions():
                part.put(part.name)
            drained(connection, lambda: len(got) == 4)
        lists = popping.default_channel.popped_queues
        with Consumer(popping, [ORDERS], callbacks=[lambda *_: None], no_ack=True):
            assert len(lists()) == 4
            with broker.queue(6) as queue:
                assert len(queue.partitions()) == 6
            drained(popping, lambda: len(lists()) == 6)


def test_a_worker_without_the_option_takes_from_all(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns of them by the server's record, once there is one."""
    monkeypatch.setattr(fleet, "EVERY", 0.1)
    plain = Queue("plain", Exchange("plain"), routing_key="plain")  # no other test names it
    with (
        Connection(broker.url) as connection,
        consuming(connection, plain) as got,
        atomq.Queue("plain", broker.library, partitions=4) as queue,
    ):
        connection.Producer().publish("alone", exchange=plain.exchange, routing_key="plain")
        drained(connection, lambda: got == ["alone"])
        parts: Any = queue
        for part in parts.partitions():
            part.put(part.name)
        drained(connection, lambda: len(got) == 5)
        channel = connection.default_channel
        channel.queue_delete("plain")
        assert channel.broker.spread.get("plain") is None


def test_a_lower_number_is_refused(broker: Broker) -> None:
    with broker.queue(4) as queue, broker.connected(3, retry_budget=4) as connection:
        assert len(queue.partitions()) == 4
        with pytest.raises(InvalidArgument, match="4 partitions, not 3"):
            put(connection.Producer(), 1)
        with pytest.raises(InvalidArgument, match="4 partitions, not 3"):
            Consumer(connection, [ORDERS]).consume()


def test_without_acks_they_are_popped_from_all(broker: Broker) -> None:
    got: list[Any] = []
    with broker.connected() as out, broker.connected() as connection, broker.queue() as queue:
        for n in range(8):
            put(out.Producer(), n)
        with Consumer(
            connection, [ORDERS], callbacks=[lambda body, _: got.append(body)], no_ack=True
        ):
            drained(connection, lambda: len(got) == 8)
            put(out.Producer(), "late")
            drained(connection, lambda: got[-1] == "late")
        assert sum(ready(queue)) == 0


def test_what_outlives_its_queue_puts_and_takes_where_the_record_says(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is emptied, and another process is the first one there."""
    monkeypatch.setattr(spread, "READ_AGAIN", 0.1)
    with broker.connected() as out, broker.connected() as connection:
        with consuming(connection) as got:
            producer = out.Producer()
            for n in range(4):
                put(producer, n)
            drained(connection, lambda: len(got) == 4)
            broker.node.client().flushall()
            with broker.queue(3) as queue:
                assert len(queue.partitions()) == 3
                for part in queue.partitions():
                    part.put(part.name)
            drained(connection, lambda: len(got) == 7)
        broker.node.client().flushall()
        with broker.queue(3) as queue:
            first = {part.name for part in queue.partitions()}
            for n in range(4):
                put(producer, n)
                put(producer, n, partition_key=f"k{n}")
            with producer.batch():
                for n in range(4):
                    put(producer, n)
                    put(producer, n, partition_key=f"k{n}")
            names = queue.state().partitions
            assert (sum(ready(queue)), len(names), first < set(names)) == (16, 4, True)


def test_one_message_at_a_time_and_the_end_of_the_queue(broker: Broker) -> None:
    with broker.connected() as connection, broker.queue() as queue:
        for n in range(4):
            put(connection.Producer(), n)
        channel = connection.default_channel
        found = [channel.basic_get("orders") for _ in range(5)]
        assert sorted(each.payload for each in found[:4]) == [0, 1, 2, 3]
        assert found[4] is None
        found[0].reject()
        found[1].requeue()
        for each in found[2:4]:
            each.ack()
        wait_until("the acks", lambda: queue.state().unacked == 0)
        assert (queue.state().ready, queue.state().dead) == (1, 1)
        channel.queue_delete("orders")
        with atomq.Engine(broker.library) as engine:
            (row,) = engine.overview(["orders"]).queues
        assert (row.is_empty, row.partitions) == (True, ())
        with broker.connected() as again:
            put(again.Producer(), "anew")
    with broker.queue() as queue:
        assert sum(ready(queue)) == 1


def test_a_stock_consumer_drains_the_partitions_by_their_names(server: Server) -> None:
    """Behind the last consumer of atomq what was delayed lies where stock's own looks."""
    broker = Broker(ours(server.url), server.url, server)
    with (
        broker.queue() as queue,
        broker.connected() as connection,
        consuming(connection) as got,
    ):
        put(connection.Producer(), "first")
        drained(connection, lambda: got)
        eta = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
        for n in range(4):
            put(connection.Producer(), n, headers={"eta": eta})
        assert queue.state().delayed == 4
        names = queue.state().partitions
    with Connection(server.url) as connection:
        assert connection.transport.driver_name == "redis"
        channel = connection.default_channel
        assert channel._size("orders") == 1, "it sees the first one"
        with consuming(connection, *(Queue(name, routing_key=name) for name in names)) as got:
            drained(connection, lambda: sorted(got) == [0, 1, 2, 3])


@pytest.mark.parametrize(
    "said", [{"orders": 0}, {"orders": 257}, {"orders": True}, {7: 2}, "orders"]
)
def test_what_is_no_number_of_partitions_is_refused(server: Server, said: Any) -> None:
    connection = Connection(ours(server.url), transport_options={"partitions": said})
    with connection, pytest.raises(InvalidOptions, match="partitions: got"):
        connection.connect()


# ── Celery ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "pool"),
    [
        ("cluster", "solo"),
        *(
            pytest.param(where, pool, marks=pytest.mark.long)
            for where in ("server", "cluster")
            for pool in ("prefork", "threads", "gevent")
        ),
    ],
)
def test_a_worker_does_all_that_it_does_on_a_queue(
    server: Server, cluster: Cluster, tmp_path: Path, where: str, pool: str
) -> None:
    url = ours(server.url)
    if where == "cluster":
        url = cluster.url.replace("redis://", "atomq-cluster://")
    conf: dict[str, Any] = {"broker_transport_options": {"partitions": {"orders": 4}}}
    at = Place(server, tmp_path, url)
    try:
        at.app.conf.update(conf)
        at.reader.conf.update(conf)
        worker = at.worker(pool, 1 if pool == "solo" else 2, queues="orders", **conf).ready()
        with atomq.Queue("orders", url.replace("atomq+", "redis+"), partitions=4) as queue:
            parts = queue.partitions()
            ids = [at.send("work", queue="orders", priority=n % 4) for n in range(12)]
            due = [at.send("work", queue="orders", countdown=0.3) for _ in range(4)]
            at.ledger.await_ends([*ids, *due])
            starts = at.ledger.starts()
            assert {starts[one] for one in (*ids, *due)} == {1}
            home = queue._map.of_key("customer-7")
            count = parts[home].state().stats["published"]
            at.ledger.await_ends(
                at.send("retried", 2, 0.1, queue="orders", partition_key="customer-7")
            )
            assert parts[home].state().stats["published"] == count + 3, "with its retries"
            assert [part.state().stats.get("published", 0) > 0 for part in parts] == [True] * 4
            # dead letters, of whichever partition
            dead = [at.send("rejected", False, queue="orders") for _ in range(4)]
            wait_until("the dead letters", lambda: queue.state().dead == 4)
            assert {each.id for each in map(queue.get, dead)} == set(dead)
            # remote control
            later = [at.send("work", queue="orders", countdown=60) for _ in range(4)]
            before = parts[home].state().delayed
            keyed = at.send("work", queue="orders", countdown=60, partition_key="customer-7")
            assert parts[home].state().delayed == before + 1
            inspect = at.app.control.inspect(destination=[worker.name], timeout=2)
            ((found),) = inspect.scheduled().values()
            assert {each["request"]["id"] for each in found} == {*later, keyed}
            assert set(inspect.query_task(later[1])[worker.name]) == {later[1]}
            at.app.control.revoke(later)
            wait_until("them to be taken out", lambda: queue.state().delayed == 1)
            assert [q["name"] for q in inspect.active_queues()[worker.name]] == ["orders"]
            to = {"destination": [worker.name], "reply": True, "timeout": 2}
            at.app.control.cancel_consumer("orders", **to)
            # behind the last consumer what is delayed is where others find it
            wait_until("the hand-back", lambda: queue.state().delayed == 0)
            assert parts[home].state().ready == 1
            stay = [at.send("work", queue="orders") for _ in range(4)]
            assert queue.state().ready == 5
            at.app.control.add_consumer("orders", **to)
            at.ledger.await_ends(stay)
            wait_until("its due time", lambda: queue.state().delayed == 1)
            if LONG:  # it learns of more within some seconds, in its event loop
                with atomq.Queue("orders", queue.engine, partitions=6) as more:
                    added = more.partitions()[4:]
                at.ledger.await_ends([at.send("work", queue=part.name) for part in added])
            assert worker.stop() == 0
            assert queue.state().unacked == 0
        assert "Unrecoverable" not in worker.log
    finally:
        at.close()
