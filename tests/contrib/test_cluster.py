"""Celery and Kombu on a cluster: all that they promise on one server, and shards in trouble."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from celery import chain, chord, group
from celery.app.task import Context
from celery.result import GroupResult, ResultSet
from kombu import Connection, Consumer, Exchange, Producer, Queue

from atomq import calls, scripts
from atomq.conversation import INVALIDATED
from atomq.errors import ServerUnavailable
from atomq.keys import QueueKeys, hash_slot
from tests.contrib.rig import ON_ONE_KIND, Place, Worker, late_beside_a_busy_one, pools
from tests.faults.test_cluster import name_on
from tests.servers import Cluster, Server, wait_until

pytestmark = [ON_ONE_KIND, pytest.mark.slow]
# A slot without a node stops no other.
PARTIAL = {"cluster-require-full-coverage": "no"}


def url_of(cluster: Cluster) -> str:
    return ";".join(f"atomq-cluster://127.0.0.1:{node.port}" for node in cluster.nodes)


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    """Three primaries. No test ends one of them for good."""
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        yield cluster


class ClusterPlace(Place):
    """Workers on a cluster. Results lie there too."""

    def __init__(self, cluster: Cluster, directory: Path, host: int = 0) -> None:
        self.cluster = cluster
        first, *others = url_of(cluster).split(";")
        # Kombu's pools tell connections apart by their first URL.
        url = ";".join([f"{first}/{host}" if host else first, *others])
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


@contextmanager
def frozen(node: Server) -> Iterator[None]:
    node.pause()
    try:
        yield
    finally:
        node.resume()


def drained(connection: Connection, there: Callable[[], bool], seconds: float = 5.0) -> None:
    """Hand over what comes until it is there."""
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, "it did not come"
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            continue


def knows_look(node: Server) -> bool:
    """Whether the script that looks is loaded there."""
    return bool(node.client().script_exists(scripts.get("look").sha)[0])


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
            drained(connection, lambda: all(map(knows_look, three.nodes)))  # and claims no more
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


def test_the_server_reports_what_is_waited_for_and_not_what_claims_read(
    three: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each publish of others would send three reports: of the ready list, tokens, counters."""
    queues, got, reported = [a_queue(name_on(three, 0)) for _ in range(2)], [], set[bytes]()

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with Connection(url_of(three)) as out, Connection(url_of(three)) as connection:
        intake = connection.transport.poller._intake
        pushed = intake._pushed

        def noting(push: Any) -> Any:
            reported.update(push[1] or () if push[0] == INVALIDATED else ())
            return pushed(push)

        monkeypatch.setattr(intake, "_pushed", noting)
        with Consumer(connection, queues, callbacks=[take]):
            for number in range(6):
                put(Producer(out), queues[number % 2], number)
                drained(connection, lambda number=number: got == [*range(number + 1)])
                with suppress(TimeoutError):  # it claims, finds nothing, and waits
                    connection.drain_events(timeout=0.05)
        wakes = {connection.transport.broker.keys(queue.name).wake.encode() for queue in queues}
    assert reported == wakes


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
        assert sorted(row[2] for row in channel.broker.bindings.read(name)) == ["passing", name]
        other(channel).unbind_from(Exchange(name), routing_key="p")
        node, table = three.nodes[2].client(), f"_atomq.{{{name}}}.bindings"
        node.zadd(table, {"p\x06\x16\x06\x16old": 1})  # long ago
        assert [row[2] for row in channel.broker.bindings.read(name)] == [name]
        assert (node.zcard(table), node.pttl(table)) == (1, -1)
    assert node.keys(f"*{name}*bindings") == [table.encode()]


@pytest.mark.parametrize("host", ["", "/1"])
def test_a_user_of_one_queue_may_do_what_a_worker_does(three: Cluster, host: str) -> None:
    name = name_on(three, 0)
    url = url_of(three) + host
    command = [sys.executable, "-m", "atomq", "acl", "worker", name, "--celery", "--json", "--url"]
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=20)
    (found,) = json.loads(said.stdout)
    user, rules = found["user"], found["rules"]
    for node in three.nodes:
        admin = node.client()
        admin.execute_command("ACL", "SETUSER", user, *rules, ">secret")
        for script in scripts.every():
            admin.script_load(script.text)
    url = url.replace("//", f"//{user}:secret@", 1)
    got: list[Any] = []
    fan = Queue("heard", Exchange("celery.pidbox", type="fanout"), auto_delete=True)
    with Connection(url) as connection, Connection(url) as out:
        queue = a_queue(name)

        def take(body: Any, message: Any) -> None:
            got.append(body)
            message.ack()

        with (
            Consumer(connection, [queue], callbacks=[take]),
            Consumer(connection.channel(), [fan], callbacks=[take], no_ack=True),
        ):
            Producer(out).publish("one", exchange=queue.exchange, routing_key=name, declare=[queue])
            Producer(out).publish("all", exchange=fan.exchange, declare=[fan.exchange])
            drained(connection, lambda: sorted(got) == ["all", "one"])
    for node in three.nodes:
        node.client().acl_deluser(user)


def put(producer: Producer, queue: Queue, body: Any, **more: Any) -> None:
    producer.publish(body, exchange=queue.exchange, routing_key=queue.name, declare=[queue], **more)


class OneByOne:
    """A consumer of queues that takes one message at a time, and a producer beside it."""

    def __init__(self, cluster: Cluster, *queues: Queue) -> None:
        self.got: list[tuple[Any, Any]] = []
        self._out, self.connection = Connection(url_of(cluster)), Connection(url_of(cluster))
        self.producer = Producer(self._out)
        channel = self.connection.channel()
        channel.basic_qos(0, 1, False)
        self._consumer = Consumer(channel, queues, callbacks=[lambda *one: self.got.append(one)])

    def __enter__(self) -> Self:
        self._consumer.consume()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._out.close()

    def drain(self, seconds: float) -> float:
        """Hand over what comes for so long; the longest time that one turn took."""
        until, longest = time.monotonic() + seconds, 0.0
        while (began := time.monotonic()) < until:
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=0.02)
            longest = max(longest, time.monotonic() - began)
        return longest

    def take(self) -> tuple[Any, float]:
        """The body of the next message, which is acked, and for how long it was waited for."""
        began = time.monotonic()
        drained(self.connection, lambda: self.got)
        body, message = self.got.pop()
        message.ack()
        return body, time.monotonic() - began


def test_what_fell_due_while_there_was_no_room_comes_as_soon_as_there_is(three: Cluster) -> None:
    full, due = a_queue(name_on(three, 0)), a_queue(name_on(three, 1))
    with OneByOne(three, full, due) as at:
        put(at.producer, full, "full")
        drained(at.connection, lambda: at.got)
        eta = datetime.now(UTC) + timedelta(seconds=0.3)
        put(at.producer, due, "due", headers={"eta": eta.isoformat()})
        at.drain(1.3)  # looks are made meanwhile, and there is no room for what they find
        assert at.take()[0] == "full"
        body, waited = at.take()
        assert body == "due"
        assert waited < 0.7, "before the next look"


def test_what_falls_due_while_its_timekeeper_works_comes_to_another(three: Cluster) -> None:
    names = name_on(three, 0), name_on(three, 1)
    assert -0.002 < late_beside_a_busy_one(url_of(three), *names) < 0.3


def test_a_claim_that_a_frozen_node_does_not_answer_keeps_room_from_no_other(
    three: Cluster,
) -> None:
    """Nor does anything that is to be said to that node hold the connection up."""
    well, stuck = a_queue(name_on(three, 0)), a_queue(name_on(three, 1))
    with OneByOne(three, well, stuck) as at:
        for queue in (well, stuck):
            put(at.producer, queue, queue.name)
        assert {at.take()[0], at.take()[0]} == {well.name, stuck.name}
        with frozen(three.nodes[1]):
            claims = at.connection.transport.poller._intake._claimed[stuck.name]
            claims.claims.found([stuck.name])
            at.drain(0.05)
            assert claims.is_sent
            put(at.producer, well, "well")
            body, waited = at.take()
            assert (body, at.drain(1.0) < 1) == ("well", True)
            assert waited < 2
        put(at.producer, stuck, "stuck")
        assert at.take()[0] == "stuck"


def test_a_line_that_breaks_costs_no_message_of_another_node(three: Cluster) -> None:
    """Celery drops all that it has reserved when its connection is lost, so it does not hear."""
    cut, held = a_queue(name_on(three, 0)), a_queue(name_on(three, 1))
    with OneByOne(three, cut, held) as at:
        put(at.producer, cut, "first")
        assert at.take()[0] == "first"
        put(at.producer, held, "held")
        drained(at.connection, lambda: at.got)
        three.nodes[0].client().execute_command("CLIENT KILL TYPE normal SKIPME yes")
        at.drain(0.3)
        assert not at.connection.transport.lost
        assert at.take()[0] == "held"
        put(at.producer, cut, "second")
        assert at.take()[0] == "second"
        channel = at.connection.default_channel
        assert channel.broker.engine.run(calls.inspect(channel.broker.keys(held.name))).unacked == 0


def key_on(connection: Connection, name: str, index: int) -> str:
    """A partition key whose partition is on the node with this index, of three."""
    broker = connection.default_channel.broker
    found: Any = broker.spread.get(name)
    homes = {key: found.keys_at(found._map.of_key(key)) for key in map(str, range(100))}
    return next(key for key, keys in homes.items() if keys.slot * 3 // 16384 == index)


def answers(connection: Connection, name: str) -> bool:
    """Whether all shards of a queue do."""
    with suppress(ServerUnavailable):
        return connection.default_channel._size(name) >= 0
    return False


@pytest.mark.parametrize("how", ["freeze", pytest.param("kill", marks=pytest.mark.long)])
def test_a_queue_of_partitions_goes_on_while_a_shard_is_away(
    three: Cluster, kind: str, how: str
) -> None:
    """What has no key is published elsewhere, and what lies elsewhere is consumed."""
    with ExitStack() as stack:
        cluster = (
            three
            if how == "freeze"
            else stack.enter_context(Cluster(kind, nodes=3, options=PARTIAL))
        )
        name = name_on(cluster, 0)
        options = {"partitions": {name: 6}, "retry_budget": 1.0}
        out, connection = (
            stack.enter_context(Connection(url_of(cluster), transport_options=options))
            for _ in range(2)
        )
        queue, producer, got = a_queue(name), Producer(out), list[Any]()

        def take(body: Any, message: Any) -> None:
            got.append(body)
            message.ack()

        stack.enter_context(Consumer(connection, [queue], callbacks=[take]))
        for n in range(6):
            put(producer, queue, n)
        drained(connection, lambda: len(got) == 6)
        node, failed, sent = cluster.nodes[1], 0, list(range(6))
        if how == "freeze":
            node.pause()
        else:
            node.kill()
        try:
            for n in range(6, 26):
                try:
                    put(producer, queue, n)
                    sent.append(n)
                except ServerUnavailable:  # it was sent there, and no other may have it
                    failed += 1
            assert failed <= (2 if how == "freeze" else 0)
            drained(connection, lambda: set(sent) <= set(got))
            with producer.batch():
                for n in range(26, 30):
                    put(producer, queue, n)
            drained(connection, lambda: {26, 27, 28, 29} <= set(got))
            with pytest.raises(ServerUnavailable):
                put(producer, queue, "keyed", partition_key=key_on(out, name, 1))
        finally:
            if how == "freeze":
                node.resume()
            else:
                node.start()
        wait_until("the shard", lambda: answers(out, name))
        put(producer, queue, "last")
        drained(connection, lambda: "last" in got, 10)
        numbers = [one for one in got if isinstance(one, int)]
        assert len(numbers) == len(set(numbers))


def test_declaring_and_replies_need_no_shard_but_their_own(
    three: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A binding whose shard stands still is made good when it is back.

    It is the shard of a reply's queue, and of a table of its exchange, if there were these.
    """
    reply, table = "{}.reply.celery.pidbox", "_atomq.{reply.celery.pidbox}.bindings"
    away = hash_slot(table) * 3 // 16384
    name, other = name_on(three, (away + 1) % 3), name_on(three, away)
    oid = next(
        oid
        for oid in map(str, range(1000))
        if QueueKeys(reply.format(oid), layout="cluster").slot * 3 // 16384 == away
    )
    with OneByOne(three, a_queue(name)) as at:
        put(at.producer, a_queue(name), "before")
        assert at.take()[0] == "before"
        with frozen(three.nodes[away]):
            began = time.monotonic()
            Queue(name, Exchange(other), routing_key=name)(at.producer.channel).declare()
            exchange = Exchange("reply.celery.pidbox", type="direct")
            replies = Queue(reply.format(oid), exchange, routing_key=oid, auto_delete=True)
            heard: list[Any] = []
            waits = Consumer(
                at.connection,
                [replies],
                callbacks=[lambda body, _: heard.append(body)],
                no_ack=True,
            )
            with waits:
                at.producer.publish("pong", exchange=exchange, routing_key=oid)
                drained(at.connection, lambda: heard)
            at.producer.publish("during", routing_key=name)
            assert at.take()[0] == "during"
            assert time.monotonic() - began < 4
        later = [m for r in caplog.records if "is bound later" in (m := r.getMessage())]
        assert [m.split("'")[1] for m in later] == [other], "no reply waits for a table"
        bindings = at.producer.channel.broker.bindings
        wait_until("the binding", lambda: [row[2] for row in bindings.read(other)] == [name])


def test_a_queue_that_expires_goes_with_its_messages_and_leaves_nothing(three: Cluster) -> None:
    """Its binding is kept for an hour, and its table passes by itself."""
    name = name_on(three, 1)
    queue = Queue(name, Exchange(name), routing_key=name, expires=0.6)
    nodes = [node.client() for node in three.nodes]

    def left() -> set[bytes]:
        found = {key for node in nodes for key in node.scan_iter(f"*{name}[^0-9]*")}
        return {key for key in found if b".producer." not in key}

    table = f"_atomq.{{{name}}}.bindings"
    with Connection(url_of(three)) as connection:
        producer = Producer(connection)
        for priority in (0, 3, 9, 9):
            put(producer, queue, priority, priority=priority)
        got = queue(connection.default_channel).get()
        got.ack()
        broker = connection.default_channel.broker
        assert broker.engine.run(calls.inspect(broker.keys(name))).ready == 3
        wait_until("the queue to expire", lambda: left() == {table.encode()}, 5)
        ((binding, deadline),) = nodes[1].zrange(table, 0, -1, withscores=True)
        assert 0 < deadline / 1000 - time.time() <= 3600
        assert 0 < nodes[1].pttl(table) <= 25 * 3600_000
        nodes[1].zadd(table, {binding: 1})  # an hour ago
        assert broker.bindings.read(name) == []
        assert not left()


@contextmanager
def applications(cluster: Cluster, by: str) -> Iterator[list[tuple[str, Connection, Producer]]]:
    """Two, of databases or prefixes of their own, each with a connection to consume."""
    with ExitStack() as stack:
        found = []
        for number, name in enumerate("ab"):
            url = url_of(cluster) + (f"/{number}" if by == "database" else "")
            options: dict[str, Any] = {}
            if by == "prefix":
                options["global_keyprefix"] = f"{name}."
            elif by == "virtual_host":
                options["virtual_host"] = number + 1
            out, connection = (
                stack.enter_context(Connection(url, transport_options=options)) for _ in range(2)
            )
            found.append((name, connection, Producer(out)))
        yield found


def keep_apart(cluster: Cluster, by: str) -> None:
    """What two applications do: queues, bindings and broadcasts."""
    fan, queue = Exchange("events", type="fanout"), a_queue("q")
    got: dict[str, list[Any]] = {"a": [], "b": [], "c": []}
    with applications(cluster, by) as both, ExitStack() as stack:
        for name, connection, _ in both:
            take = [lambda body, _, name=name: got[name].append(body)]
            heard = Queue("heard", fan, auto_delete=True)
            stack.enter_context(Consumer(connection, [queue, heard], callbacks=take, no_ack=True))
        for name, _, producer in both:
            put(producer, queue, f"one {name}")
            producer.publish(f"all {name}", exchange=fan, declare=[fan])
        for name, connection, _ in both:
            drained(connection, lambda name=name: len(got[name]) >= 2)
            with suppress(TimeoutError):  # what leaked would come now
                connection.drain_events(timeout=0.1)
            assert sorted(got[name]) == [f"all {name}", f"one {name}"]


def test_two_applications_of_one_cluster_keep_apart(kind: str) -> None:
    """By `/1`, where the cluster has databases, or by a prefix."""
    has_databases = kind.startswith("valkey")
    options = {"cluster-databases": "2"} if has_databases else {}
    with Cluster(kind, options=options) as cluster:
        for by in ("database", "prefix") if has_databases else ("prefix",):
            keep_apart(cluster, by)


@pytest.mark.parametrize("by", ["virtual_host", "database"])
def test_virtual_hosts_of_a_cluster_without_databases_keep_apart(three: Cluster, by: str) -> None:
    """By the option, or by `/1`; the third is in 0."""
    keep_apart(three, by)


# ── Celery ───────────────────────────────────────────────────────────────────────────────────────


@pools("prefork")
def test_a_worker_does_all_that_it_does_on_one_server(at: ClusterPlace, pool: str) -> None:
    names = [name_on(at.cluster, index) for index in (0, 1, 2)]
    worker = at.worker(
        pool, 1 if pool == "solo" else 2, queues=",".join(["celery", *names])
    ).ready()
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

    def consumed() -> list[str]:
        return [one["name"] for one in inspect.active_queues()[worker.name]]

    wait_until("the queue to be left", lambda: consumed() == ["celery", *names], 5)
    assert worker.stop() == 0
    assert "Traceback" not in worker.log


@contextmanager
def heard(at: ClusterPlace) -> Iterator[list[dict[str, Any]]]:
    """The events of all workers, as they come over one connection."""
    events = list[dict[str, Any]]()
    app = at.make_app(broker_transport_options={"client_name": "hears-events"})
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        capture = partial(receiver.capture, limit=None, timeout=None, wakeup=False)
        listener = threading.Thread(target=capture, daemon=True)
        listener.start()
        try:
            yield events
        finally:
            receiver.should_stop = True
            listener.join(5)


def heard_at(cluster: Cluster) -> int:
    """The index of the node at which they are heard."""

    def hears(node: Server) -> bool:
        return any(one["name"] == "hears-events" for one in node.client().client_list("pubsub"))

    (found,) = [index for index, node in enumerate(cluster.nodes) if hears(node)]
    return found


def test_workers_meet_and_events_tell_of_their_tasks(at: ClusterPlace) -> None:
    """Also while the node stands still at which they are heard."""
    here, there, third = names = [name_on(at.cluster, index) for index in (0, 1, 2)]
    talks = ("--events", "--loglevel=DEBUG")  # with arguments of its own a worker mingles
    sender = at.make_app(task_send_sent_event=True)
    with heard(at) as events:

        def told(one: str) -> set[str]:
            return {event["type"] for event in events if event.get("uuid") == one}

        def is_told_of_a_task(queue: str) -> bool:
            """What is sent while a line moves to another node may be lost, as all events may."""
            one = at.send("work", queue=queue, app=sender)
            at.ledger.await_ends(one, 5)
            with suppress(AssertionError):
                wait_until("its end", lambda: "task-succeeded" in told(one), 0.5)
            return "task-succeeded" in told(one)

        one = at.worker("solo", queues=f"{here},{third}", args=talks).ready()
        revoked = str(uuid.uuid4())
        at.app.control.revoke(revoked)
        inspect = at.app.control.inspect([one.name], timeout=3, limit=1)
        wait_until("it to be revoked", lambda: inspect.revoked() == {one.name: [revoked]})
        two = at.worker("threads", queues=there, args=talks).ready()
        assert "mingle: sync with 1 nodes" in two.log
        inspect = at.app.control.inspect([two.name], timeout=3, limit=1)
        assert inspect.revoked() == {two.name: [revoked]}
        one.await_log(f"{two.name} joined the party")
        both = {one.name, two.name}
        wait_until("heartbeats", lambda: {event["hostname"] for event in events} >= both)
        all_of_it = {"task-sent", "task-received", "task-started", "task-succeeded"}
        for sent in [at.send("work", queue=queue, app=sender) for queue in (here, there)]:
            wait_until("all of it", lambda sent=sent: told(sent) == all_of_it)
        index = heard_at(at.cluster)
        well = names[(index + 1) % 3]
        with frozen(at.cluster.nodes[index]):
            wait_until("the end of a task", lambda: is_told_of_a_task(well), 10)
        two.stop()
        one.await_log(f"{two.name} left")
    for worker in (one, two):
        assert "Traceback" not in worker.log


def test_beat_sends_into_a_cluster_and_a_backlog_comes_by_priority(at: ClusterPlace) -> None:
    backlog, ticks = name_on(at.cluster, 0), name_on(at.cluster, 1)
    ids = {at.send("early", queue=backlog, priority=n * 3 % 10): n * 3 % 10 for n in range(10)}
    at.worker(role="beat", task_default_queue=ticks)
    at.worker("solo", queues=f"{backlog},{ticks}").ready()
    at.ledger.await_ends([*ids])
    starts = [event.id for event in at.ledger.events() if event.what == "start"]
    steps = [ids[one] // 3 for one in starts if one in ids]
    assert steps == sorted(steps), "the priorities 0 to 2 first, and 9 last"

    def ticked() -> int:
        return len([e for e in at.ledger.events() if (e.what, e.name) == ("start", "tick")])

    wait_until("two ticks", lambda: ticked() >= 2, 15)
    at.await_empty(5, backlog)


def test_workers_of_two_virtual_hosts_know_nothing_of_each_other(
    three: Cluster, tmp_path: Path
) -> None:
    """Of a cluster without databases: tasks, results, chords, control, events, gossip."""
    with ExitStack() as stack:
        places = [ClusterPlace(three, tmp_path, host) for host in (1, 2)]
        for place in places:
            stack.callback(place.close)
        gossip = ("--events",)
        workers = [place.worker("threads", 2, args=gossip) for place in places]
        for worker in workers:
            worker.ready()
        one, two = places
        ids = [place.send("work", 0, 42) for place in places]
        collected = one.reader.tasks["collected"]
        work = one.reader.tasks["work"]
        assert chord([work.s(0, n) for n in range(3)], collected.s())().get(timeout=15) == [0, 1, 2]
        for place, worker, sent in zip(places, workers, ids, strict=True):
            assert place.result(sent) == 42
            place.ledger.await_ends(sent)
            pong = [{worker.name: {"ok": "pong"}}]
            wait_until(
                "its worker to listen",
                lambda place=place, pong=pong: place.app.control.ping(timeout=0.5) == pong,
            )
        assert not two.ledger.starts()[ids[0]]
        assert not one.ledger.starts()[ids[1]]
        assert two.reader.backend.get_task_meta(ids[0], cache=False)["status"] == "PENDING"
        later = two.send("work", countdown=60)
        wait_until("it to lie there", lambda: two.state().delayed == 1)
        one.app.control.revoke(later)
        # Two broadcasts may come by two nodes, and in another order.
        wait_until(
            "the first one to hear of it",
            lambda: one.app.control.inspect(timeout=0.5).revoked() == {workers[0].name: [later]},
        )
        assert two.app.control.inspect(timeout=0.5).revoked() == {workers[1].name: []}
        for place, worker, other in ((one, *workers), (two, *reversed(workers))):
            assert other.name not in worker.log
            with place.engine() as engine:
                # What a test before consumed as a user that is gone may be listed for a minute.
                known = [one for one in engine.overview().processes if one.pid != os.getpid()]
                assert [one.entry["name"] for one in known] == [worker.name]
        for worker in workers:
            assert worker.stop() == 0
            assert "Traceback" not in worker.log


# ── a shard in trouble ───────────────────────────────────────────────────────────────────────────


class Busy(NamedTuple):
    """A worker, and its queues, of two shards."""

    at: ClusterPlace
    worker: Worker
    queues: tuple[str, str]


@pytest.fixture(scope="module")
def busy(three: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    """It lives on from test to test."""
    at = ClusterPlace(three, tmp_path_factory.mktemp("busy"))
    names = name_on(three, 0), name_on(three, 1)
    try:
        yield Busy(at, at.worker("threads", 4, queues=",".join(names), backend=None).ready(), names)
    finally:
        at.close()


def starts_of(at: ClusterPlace, ids: list[str]) -> list[float]:
    """When these tasks were started."""
    wanted = set(ids)
    return sorted(e.at for e in at.ledger.events() if e.what == "start" and e.id in wanted)


def test_a_frozen_shard_keeps_its_queues_alone(busy: Busy, three: Cluster) -> None:
    at, worker, (here, there) = busy
    at.ledger.await_ends([at.send("work", queue=here), at.send("work", queue=there)])
    held = at.send("work", 0.5, queue=there)
    at.ledger.await_starts(held)
    three.nodes[1].pause()
    try:
        ids = []
        for _ in range(20):
            ids.append(at.send("work", queue=here))
            time.sleep(0.1)
        at.ledger.await_ends(ids, 5)
        ping = at.app.control.ping  # the worker may have listened to the node that stands still
        wait_until("a pong", lambda: ping(destination=[worker.name], timeout=1), 5)
        # What lies on other shards is listed; the one that stands still is not waited for.
        later = at.send("work", queue=here, countdown=60)
        inspect = at.app.control.inspect(destination=[worker.name], timeout=2)
        assert [x["request"]["id"] for x in inspect.scheduled()[worker.name]] == [later]
        at.app.control.revoke(later)
    finally:
        three.nodes[1].resume()
    late = [at.send("work", queue=there) for _ in range(3)]
    at.ledger.await_ends([held, *late], 5)
    at.await_empty(5, there)
    assert set(at.ledger.starts().values()) == {1}
    sent = starts_of(at, ids)
    assert max(b - a for a, b in itertools.pairwise(sent)) < 1.0
    assert worker.alive


class Sender:
    """Sends tasks at a rate until it is stopped; a task that was refused is not counted."""

    def __init__(self, at: ClusterPlace, queues: list[str], rate: float) -> None:
        self._at, self._queues, self._rate = at, itertools.cycle(queues), rate
        self.sent: dict[str, list[str]] = {name: [] for name in queues}
        self.refused = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(q,), daemon=True) for q in queues]

    def _run(self, queue: str) -> None:
        pause = len(self.sent) / self._rate
        while not self._stop.wait(pause):
            try:
                self.sent[queue].append(self._at.send("work", queue=queue, retry=False))
            except Exception:  # noqa: BLE001 - whatever Kombu makes of a shard that is away
                self.refused += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


def gap(at: ClusterPlace, ids: list[str]) -> float:
    """The longest time between two starts of these tasks, in seconds."""
    return max(b - a for a, b in itertools.pairwise(starts_of(at, ids)))


def end(node: Server, how: str) -> None:
    """End a primary, or have it stand still."""
    if how == "kill":
        node.kill()
    else:
        node.pause()


def elected_at(cluster: Cluster, index: int) -> float:
    """Wait until the replica of a primary is one; when that was."""
    slot, replica = 16384 * index // len(cluster.nodes), cluster.replicas[index]
    wait_until("the replica to be a primary", lambda: cluster.owns(replica, slot), 20)
    return time.time()


def fail_over(cluster: Cluster, index: int, how: str) -> float:
    """End a primary, or have it stand still, and wait until its replica is one; when that was."""
    end(cluster.nodes[index], how)
    return elected_at(cluster, index)


def id_on(index: int, of: int = 3) -> str:
    """The id of a task whose result lies on the node with this index."""
    ids = (str(uuid.uuid4()) for _ in itertools.count())
    return next(i for i in ids if hash_slot(f"celery-task-meta-{i}") * of // 16384 == index)


@pools("prefork", long=["threads", "gevent"])
def test_results_of_a_frozen_shard_keep_no_task_of_another(at: ClusterPlace, pool: str) -> None:
    """Neither in the places of the pool nor in the worker's own process, which stores the result of
    a task that was revoked or rejected or took too long. All can be read while the shard is away.
    """
    here, cluster = name_on(at.cluster, 0), at.cluster
    worker = at.worker(pool, 4, queues=here, worker_prefetch_multiplier=20).ready()
    at.ledger.await_ends([at.send("work", queue=here, task_id=id_on(i)) for i in (0, 1, 2)])
    revoked = id_on(1)
    at.app.control.revoke(revoked, destination=[worker.name], reply=True, timeout=2)
    with frozen(cluster.nodes[1]):
        done = [at.send("work", 0, n, queue=here, task_id=id_on(1)) for n in range(4)]
        at.send("work", queue=here, task_id=revoked)
        failed = []
        if pool == "prefork":
            failed = [
                at.send("rejected", queue=here, task_id=id_on(1), kwargs={"requeue": False}),
                at.send("work", 60, queue=here, task_id=id_on(1), time_limit=1),
            ]
        sent = []
        for _ in range(20):
            sent.append(at.send("work", queue=here, task_id=id_on(0)))
            time.sleep(0.1)
        waited_for = at.reader.tasks["work"].apply_async((0, 42), task_id=id_on(1), queue=here)
        assert waited_for.get(timeout=10) == 42
        at.ledger.await_ends([*done, *sent], 5)
        assert gap(at, sent) < 1.0
        known = at.reader.backend._known_soon  # what has not ended is asked for at its shard
        wait_until("all to end", lambda: all(map(known, (*done, revoked, *failed))))
        began = time.monotonic()
        found = [at.outcome(one) for one in (*done, revoked, *failed)]
        assert time.monotonic() - began < 3
    assert [each["result"] for each in found[:4]] == [0, 1, 2, 3]
    states = ["SUCCESS"] * 4 + ["REVOKED"] + ["FAILURE"] * len(failed)
    assert [each["status"] for each in found] == states
    assert [at.outcome(each["task_id"])["status"] for each in found] == states
    at.reader.AsyncResult(done[0]).forget()
    assert at.reader.AsyncResult(done[0]).status == "PENDING"
    assert worker.alive
    assert "ServerUnavailable" not in worker.log


def test_results_of_all_shards_are_read_at_once(at: ClusterPlace) -> None:
    """Celery asks for them by one MGET, which no cluster answers for several slots.

    So are those that were stored beside, as their shard was away.
    """
    ids, backend = [id_on(index) for index in (0, 1, 2, 1)], at.reader.backend
    for number, one in enumerate(ids[:3]):
        backend.store_result(one, number, "SUCCESS")
    with frozen(at.cluster.nodes[1]):
        backend.store_result(ids[3], 3, "SUCCESS")
    found = dict(backend.get_many(ids, timeout=5))
    assert [found[one]["result"] for one in ids] == [0, 1, 2, 3]


def test_a_result_is_waited_for_while_its_shard_is_away(at: ClusterPlace) -> None:
    """It is stored elsewhere meanwhile, and heard of, alone or among others."""
    ids = [id_on(1), id_on(0), id_on(1)]
    stores = at.make_app(backend=at.backend).backend
    stores.store_result(ids[2], None, "STARTED")

    def store() -> None:
        for number, one in enumerate(ids):
            stores.store_result(one, number, "SUCCESS")

    with frozen(at.cluster.nodes[1]):
        soon = threading.Timer(0.5, store)
        soon.start()
        assert at.reader.AsyncResult(ids[0]).get(timeout=8) == 0
        results = [at.reader.AsyncResult(one) for one in ids]
        assert ResultSet(results, app=at.reader).get(timeout=8) == [0, 1, 2]
        soon.join(8)


def test_a_worker_in_its_books_waits_for_no_shard_of_a_chord(at: ClusterPlace) -> None:
    """Where a part was revoked, say; it is counted when the shard is back."""
    backend: Any = at.reader.backend
    part = Context(
        id=id_on(0), group=name_on(at.cluster, 1), chord=at.reader.tasks["collected"].s()
    )
    counted = backend.get_key_for_group(part.group, ".j")
    backend.client.get(counted)
    with frozen(at.cluster.nodes[1]):
        began = time.monotonic()
        backend.mark_as_revoked(part.id, "revoked", request=part)
        assert time.monotonic() - began < 2
    node = at.cluster.nodes[1].client()
    wait_until("the part to be counted", lambda: node.zcard(counted) == 1)


class Ends:
    """The last part of a chord ends; `there` says that its body was sent."""

    def __init__(self, at: ClusterPlace, *, nested: bool) -> None:
        self._at, self._queue = at, name_on(at.cluster, 0)
        app = at.make_app(backend=at.backend, redis_socket_timeout=1.0)
        self.backend: Any = app.backend
        gid, ids = name_on(at.cluster, 2), [id_on(1), id_on(0)]
        if nested:
            for number, one in enumerate(ids):
                self.backend.store_result(one, number, "SUCCESS")
            GroupResult(gid, [app.AsyncResult(one) for one in ids]).save(self.backend)
        self.backend.set_chord_size(gid, 1)
        body = app.tasks["collected"].s().set(queue=self._queue)
        self._part = Context(id=ids[1], group=gid, group_index=0, chord=body)

    def count(self) -> None:
        self.backend.on_chord_part_return(self._part, "SUCCESS", 1)

    def await_body(self) -> None:
        self._at.await_state(lambda state: state.ready == 1, queue=self._queue)
        gc.collect()  # groups unsubscribe while there is a server


def test_a_body_waits_for_the_results_of_a_shard_that_is_away(
    at: ClusterPlace, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of inner chords are read when the last one is done; an error would fail the body."""
    chord = Ends(at, nested=True)
    with frozen(at.cluster.nodes[1]):
        chord.count()
        wait_until("it to be asked again", lambda: "Retry (0/" in caplog.text)
    chord.await_body()


@pytest.mark.parametrize("command", ["GET", "ZRANGE"])
def test_an_answer_that_is_lost_on_its_way_costs_no_body(
    at: ClusterPlace, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    chord = Ends(at, nested=command == "GET")
    engine, lost = chord.backend.client.engine, [command]
    says = engine.command

    def loses_one(*words: Any, **how: Any) -> Any:
        reply = says(*words, **how)
        if words[0] in lost:
            lost.remove(words[0])
            raise ServerUnavailable("connection reset by peer")
        return reply

    monkeypatch.setattr(engine, "command", loses_one)
    chord.count()
    chord.await_body()
    assert not lost


@pytest.mark.parametrize(
    ("how", "pool", "seconds"),
    [
        ("kill", "threads", 2.0),
        *(
            pytest.param(how, pool, 50.0, marks=pytest.mark.long)
            for how in ("kill", "freeze")
            for pool in ("prefork", "threads", "gevent")
        ),
    ],
)
@pytest.mark.timeout(300)
def test_a_primary_that_ends_under_load_loses_nothing(
    kind: str, tmp_path: Path, how: str, pool: str, seconds: float
) -> None:
    options = {**PARTIAL, "cluster-node-timeout": "1000" if seconds < 10 else "2000"}
    with Cluster(kind, nodes=3, replicas=True, options=options) as cluster:
        at = ClusterPlace(cluster, tmp_path)
        try:
            names = [name_on(cluster, index) for index in (0, 1, 2)]
            at.app = at.make_app(broker_transport_options={"socket_timeout": 2})
            worker = at.worker(pool, 4, queues=",".join(names), backend=None).ready()
            at.ledger.await_ends([at.send("work", queue=name) for name in names], 20)
            with Sender(at, names, 50) as sender:
                time.sleep(seconds / 5)
                elected = fail_over(cluster, 1, how)
                time.sleep(seconds)
            if how == "freeze":
                cluster.nodes[1].resume()
            sent = [one for ids in sender.sent.values() for one in ids]
            at.ledger.await_ends(sent, 20)
            assert worker.alive
            twice = {one for one, count in at.ledger.starts().items() if count > 1}
            resumed = [start for start in starts_of(at, sender.sent[names[1]]) if start > elected]
            print(f"{len(sent)} sent, {sender.refused} refused, {len(twice)} twice,", end=" ")
            print(f"resumed {resumed[0] - elected:.2f} s after the election,", end=" ")
            print(f"gaps elsewhere {[round(gap(at, sender.sent[names[i]]), 2) for i in (0, 2)]}")
            assert resumed[0] - elected < 3.0
            assert max(gap(at, sender.sent[names[0]]), gap(at, sender.sent[names[2]])) < 1.0
            assert not twice
        finally:
            at.close()


@pytest.mark.parametrize(
    ("how", "pool", "seconds"),
    [
        ("kill", "prefork", 1.0),
        *(
            pytest.param(how, pool, 20.0, marks=pytest.mark.long)
            for how in ("kill", "freeze")
            for pool in ("prefork", "threads", "gevent")
        ),
    ],
)
@pytest.mark.timeout(300)
def test_a_cluster_that_needs_all_slots_comes_back_as_a_whole(
    kind: str, tmp_path: Path, how: str, pool: str, seconds: float
) -> None:
    """`cluster-require-full-coverage yes`: while one shard has no primary no shard serves.

    Producers and the worker, results included, come back by themselves, and the log says in a few
    lines what was amiss.
    """
    options = {"cluster-node-timeout": "1000" if seconds < 10 else "2000"}
    with Cluster(kind, nodes=3, replicas=True, options=options) as cluster:
        at = ClusterPlace(cluster, tmp_path)
        try:
            names = [name_on(cluster, index) for index in (0, 1, 2)]
            worker = at.worker(pool, 4, queues=",".join(names)).ready()
            at.ledger.await_ends([at.send("work", queue=name) for name in names], 20)
            with Sender(at, names, 50) as sender:
                time.sleep(0.5)
                end(cluster.nodes[1], how)
                with frozen(cluster.replicas[1]):  # there is no election meanwhile
                    wait_until("all to be down", lambda: cluster.is_down(cluster.nodes[0]), 10)
                    time.sleep(seconds)
                elected = elected_at(cluster, 1)
                time.sleep(seconds)
            if how == "freeze":
                cluster.nodes[1].resume()
            sent = [one for ids in sender.sent.values() for one in ids]
            at.ledger.await_ends(sent, 20)
            assert worker.alive
            twice = {one for one, count in at.ledger.starts().items() if count > 1}
            starts = [starts_of(at, sender.sent[name]) for name in names]
            resumed = [min(at for at in times if at > elected) - elected for times in starts]
            print(f"{len(sent)} sent, {sender.refused} refused, {len(twice)} twice,", end=" ")
            print(f"resumed {[round(one, 2) for one in resumed]} s after the election")
            assert max(resumed) < 3.0
            assert not twice
            assert {at.outcome(one)["status"] for one in sent} == {"SUCCESS"}
            assert "Traceback" not in worker.log
            # A process that misses a node for a second says so once, and names no other.
            # What any node may do names the cluster.
            waits = Counter(re.findall(r"/(\S+)\] waiting for the server (\d\S+): ", worker.log))
            assert set(waits.values()) <= {1}, waits
            assert {where for _, where in waits} <= {f"127.0.0.1:{n.port}" for n in cluster.nodes}
        finally:
            at.close()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_shard_that_is_lost_for_good_costs_no_other(kind: str, tmp_path: Path, pool: str) -> None:
    """Nor does it where a worker begins after that."""
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        at = ClusterPlace(cluster, tmp_path)
        try:
            names = [name_on(cluster, index) for index in (0, 1, 2)]
            well = [names[0], names[2]]
            worker = at.worker(pool, 2, queues=",".join(names), backend=None).ready()
            at.ledger.await_ends([at.send("work", queue=name) for name in names], 20)
            cluster.nodes[1].kill()
            late = at.worker(pool, 2, queues=",".join(names), backend=None).ready()
            with Sender(at, well, 20) as sender:
                time.sleep(10)
            sent = [one for ids in sender.sent.values() for one in ids]
            at.ledger.await_ends(sent, 10)
            assert sender.refused == 0
            assert set(at.ledger.starts().values()) == {1}
            assert max(gap(at, sender.sent[name]) for name in well) < 1.0
            assert worker.alive
            assert late.alive
        finally:
            at.close()


@pytest.mark.long
def test_a_worker_goes_on_when_the_node_of_its_url_has_left(kind: str, tmp_path: Path) -> None:
    """Its result backend too, which connects later."""
    with Cluster(kind, nodes=2, spare=True, options=PARTIAL) as cluster:
        assert cluster.spare is not None
        url = f"atomq-cluster://127.0.0.1:{cluster.spare.port}"
        at = Place(cluster.nodes[0], tmp_path, url, backend=url)
        at.engine_url = f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}"
        try:
            worker = at.worker("threads", 2).ready()
            first = at.send("work")
            gone = cluster.id_of(cluster.spare)
            cluster.spare.stop()
            for node in cluster.nodes:
                node.client().execute_command("CLUSTER FORGET", gone)
                for sort in ("normal", "pubsub"):
                    node.client().execute_command("CLIENT KILL", "TYPE", sort, "SKIPME", "yes")
            for one in (first, at.send("work"), at.send("work")):
                assert at.outcome(one)["status"] == "SUCCESS"
            assert worker.alive
        finally:
            at.close()


def move_half_by_half(cluster: Cluster, slot: int, seconds: float) -> None:
    """Move a slot as redis-cli does, with one half of it here and one there for so long."""
    source = cluster.owner(slot)
    target = next(node for node in cluster.nodes if node is not source)
    into, out = target.client(), source.client()
    into.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    out.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", cluster.id_of(target))
    half = False
    while keys := out.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
        for key in keys:
            out.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000, "REPLACE")
            if not half:
                half = True
                time.sleep(seconds)
    name = cluster.id_of(target)
    for node in (target, source, *cluster.nodes):
        node.client().execute_command("CLUSTER SETSLOT", slot, "NODE", name)


@pytest.mark.parametrize("seconds", [0.3, pytest.param(4.0, marks=pytest.mark.long)])
def test_a_busy_queue_whose_slot_moves(busy: Busy, seconds: float) -> None:
    at, worker, (name, other) = busy
    at.ledger.await_ends([at.send("work", queue=name), at.send("work", queue=other)])
    with Sender(at, [name, other], 50) as sender:
        time.sleep(0.3)
        move_half_by_half(at.cluster, QueueKeys(name, layout="cluster").slot, seconds)
        time.sleep(0.5)
    sent = [one for ids in sender.sent.values() for one in ids]
    at.ledger.await_ends(sent, 10)
    assert sender.refused == 0
    assert set(at.ledger.starts().values()) == {1}
    assert gap(at, sender.sent[other]) < 1.0
    assert worker.alive
    assert "Traceback" not in worker.log


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_chords_of_chords_while_a_primary_ends(kind: str, tmp_path: Path, how: str) -> None:
    with Cluster(kind, nodes=3, replicas=True, options=PARTIAL) as cluster:
        at = ClusterPlace(cluster, tmp_path)
        try:
            names = [name_on(cluster, index) for index in (0, 1, 2)]
            conf = {"broker_transport_options": {"lease": 5}, "task_acks_late": True}
            at.worker("threads", 8, queues=",".join(["celery", *names]), **conf).ready()
            work, collected = at.reader.tasks["work"], at.reader.tasks["collected"]
            found = []
            ended = threading.Timer(1.0, fail_over, (cluster, 1, how))
            ended.daemon = True
            ended.start()
            for number in range(20):
                parts = [
                    work.s(0.02, base + n).set(queue=names[n % 3])
                    for base in (0, 10)
                    for n in (0, 1)
                ]
                inner = [chord(parts[:2], collected.s()), chord(parts[2:], collected.s())]
                try:
                    found.append(chord(inner, collected.s())())
                except Exception:  # noqa: BLE001 - it could not be sent: a shard was away
                    print("chord", number, "was refused")
                time.sleep(0.2)
            ended.join(30)
            assert len(found) > 5
            for result in found:
                assert result.get(timeout=60) == [[0, 1], [10, 11]]
            bodies = Counter(event.id for event in at.ledger.events() if event.name == "collected")
            assert {result.id for result in found} <= set(bodies)
            assert set(bodies.values()) == {1}, (
                "a chord has one end, whichever of its parts is last"
            )
        finally:
            if how == "freeze":
                cluster.nodes[1].resume()
            at.close()
