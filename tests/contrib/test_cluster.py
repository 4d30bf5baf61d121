"""Celery and Kombu on a cluster: all that they promise on one server, and shards in trouble."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from kombu import Connection, Consumer, Exchange, Producer, Queue

from atomq.keys import QueueKeys
from tests.contrib.rig import ON_ONE_KIND, Place
from tests.servers import Cluster, wait_until

pytestmark = [ON_ONE_KIND, pytest.mark.slow]
# A slot without a node stops no other.
PARTIAL = {"cluster-require-full-coverage": "no"}
_numbers = itertools.count(1)


def url_of(cluster: Cluster) -> str:
    return ";".join(f"atomq-cluster://127.0.0.1:{node.port}" for node in cluster.nodes)


def name_on(cluster: Cluster, index: int) -> str:
    """A queue that no other test has, in the slots that the node had at first."""
    count = len(cluster.nodes)
    while True:
        name = f"c{next(_numbers)}"
        if QueueKeys(name, layout="cluster").slot * count // 16384 == index:
            return name


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    """Three primaries. No test ends one of them for good."""
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        yield cluster


class ClusterPlace(Place):
    """Workers on a cluster. Results lie there too."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        url = url_of(cluster)
        super().__init__(cluster.nodes[0], directory, url, backend=url)
        self.engine_url = url


@pytest.fixture
def at(three: Cluster, tmp_path: Path) -> Iterator[ClusterPlace]:
    place = ClusterPlace(three, tmp_path)
    yield place
    place.close()


# ── Kombu ────────────────────────────────────────────────────────────────────────────────────────


def a_queue(name: str) -> Queue:
    return Queue(name, Exchange(name), routing_key=name)


def drained(connection: Connection, there: Callable[[], bool], seconds: float = 5.0) -> None:
    """Hand over what comes until it is there."""
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, "it did not come"
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            continue


def test_messages_of_every_shard_come_over_one_connection_a_node(three: Cluster) -> None:
    queues = [a_queue(name_on(three, index)) for index in (0, 0, 1, 2)]
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with Connection(url_of(three)) as out, Connection(url_of(three)) as connection:
        producer = Producer(out)
        for queue in queues:
            for number in range(3):
                body = [queue.name, number]
                producer.publish(
                    body, exchange=queue.exchange, routing_key=queue.name, declare=[queue]
                )
        with Consumer(connection, queues, callbacks=[take]):
            drained(connection, lambda: len(got) == 12)
            assert sorted(got) == sorted([q.name, n] for q in queues for n in range(3))
            lines = connection.transport.poller._intake.lines.every()
            assert len([line for line in lines if line.is_open]) == 3
            # What comes while it waits comes by a token, not by the look of each second.
            late = []
            for queue in queues * 3:
                sent = time.monotonic()
                producer.publish(0, exchange=queue.exchange, routing_key=queue.name)
                drained(connection, lambda: got[-1] == 0)
                late.append(time.monotonic() - sent)
                got.clear()
                got.append(None)
            assert sorted(late)[len(late) // 2] < 0.2


def test_broadcasts_and_queues_without_acks(three: Cluster) -> None:
    fan, plain = Queue("", Exchange("f", type="fanout")), a_queue(name_on(three, 1))
    got: list[Any] = []
    with Connection(url_of(three)) as out, Connection(url_of(three)) as connection:
        heard = Queue("heard", fan.exchange)
        take = [lambda body, _: got.append(body)]
        with Consumer(connection, [heard, plain], callbacks=take, no_ack=True):
            Producer(out).publish("all", exchange=fan.exchange, declare=[fan.exchange])
            Producer(out).publish(
                "one", exchange=plain.exchange, routing_key=plain.name, declare=[plain]
            )
            drained(connection, lambda: sorted(got) == ["all", "one"])


def test_an_exchange_has_one_key_which_shares_the_slot_of_its_queue(three: Cluster) -> None:
    name = name_on(three, 2)
    with Connection(url_of(three)) as connection:
        channel = connection.default_channel
        a_queue(name)(channel).declare()
        assert channel.get_table(name) == [(name, "", name)]
        other = Queue("passing", Exchange(name), routing_key="p", expires=60.0)
        other(channel).declare()
        assert sorted(row[2] for row in channel.broker.bindings.read(name)) == [name, "passing"]
        other(channel).unbind_from(Exchange(name), routing_key="p")
        assert [row[2] for row in channel.broker.bindings.read(name)] == [name]
    keys = three.nodes[2].client().keys(f"*{name}*bindings")
    assert keys == [f"_atomq.{{{name}}}.bindings".encode()]


# ── Celery ───────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_does_all_that_it_does_on_one_server(at: ClusterPlace) -> None:
    names = [name_on(at.cluster, index) for index in (0, 1, 2)]
    worker = at.worker("prefork", 2, queues=",".join(["celery", *names])).ready()
    app, work, collected = at.reader, at.reader.tasks["work"], at.reader.tasks["collected"]
    ids = [at.send("work", queue=name) for name in names * 3]
    due = at.send("work", countdown=0.5)
    assert work.apply_async((0, 42)).get(timeout=10) == 42
    at.ledger.await_ends([*ids, due])
    assert set(at.ledger.starts().values()) == {1}
    # groups, chains, and a chord of chords
    assert group(work.s(0, n) for n in range(5))().get(timeout=10) == list(range(5))
    assert chain(work.si(0, 1), work.si(0, 2))().get(timeout=10) == 2
    inner = [chord([work.s(0, base + n) for n in range(2)], collected.s()) for base in (0, 10)]
    assert chord(inner, collected.s())().get(timeout=10) == [[0, 1], [10, 11]]
    # remote control
    assert app.control.ping(destination=[worker.name], timeout=2) == [{worker.name: {"ok": "pong"}}]
    later = at.send("work", countdown=60)
    inspect = app.control.inspect(destination=[worker.name], timeout=2)
    ((found,),) = inspect.scheduled().values()
    assert found["request"]["id"] == later
    app.control.revoke(later)
    wait_until("the task to be taken out", lambda: not inspect.scheduled()[worker.name], 5)
    more = name_on(at.cluster, 1)
    app.control.add_consumer(more, destination=[worker.name], reply=True, timeout=2)
    at.ledger.await_ends(at.send("work", queue=more))
    app.control.cancel_consumer(more, destination=[worker.name], reply=True, timeout=2)
    assert [q["name"] for q in inspect.active_queues()[worker.name]] == ["celery", *names]
    assert worker.stop() == 0
    assert "Traceback" not in worker.log
