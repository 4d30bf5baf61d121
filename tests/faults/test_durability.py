"""`durability`: what a put waits for, what it says when that does not come, and what survives."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

import atomq.celery
from atomq import (
    AsyncEngine,
    AsyncQueue,
    DurabilityUnavailable,
    Engine,
    InvalidArgument,
    InvalidOptions,
    NotDurable,
    PermissionDenied,
    Queue,
    ServerTooOld,
    ServerUnavailable,
    flows,
)
from atomq.calls import Call, Published
from atomq.keys import QueueKeys
from tests.faults.test_cluster import name_on
from tests.servers import Cluster, Sentinel, Server, wait_until

atomq.celery.register()
VALKEY = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
NAME = Sentinel.master_name


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """It stands still: it confirms nothing."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


class Replicated(NamedTuple):
    """A server with an AOF, and a replica that confirms what it gets."""

    master: Server
    replica: Server

    @property
    def url(self) -> str:
        return self.master.url


@pytest.fixture(scope="module")
def shared_pair(kind: str) -> Iterator[Replicated]:
    with Server(kind, persistent=True) as master, Server(kind) as replica:
        replica.client().replicaof("127.0.0.1", str(master.port))
        yield Replicated(master, replica)


@pytest.fixture
def replicated(shared_pair: Replicated) -> Replicated:
    shared_pair.master.reset()
    client = shared_pair.master.client(single_connection_client=True)
    wait_until("the replica", lambda: client.set("x", 1) and client.execute_command("WAIT", 1, 500))
    client.delete("x")
    return shared_pair


def count(server: Server, queue: str = "q") -> int:
    """How many messages lie in its ready list."""
    return int(server.client().llen(queue))


def calls_of(server: Server, *commands: str) -> dict[str, int]:
    """How often it was sent these commands."""
    stats = server.client().info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands}


# ── what is said ──────────────────────────────────────────────────────────────────────────────


@VALKEY
def test_what_a_replica_has_not_confirmed_is_in_the_queue_and_says_so(
    replicated: Replicated,
) -> None:
    with Engine(replicated.url, durability_timeout=0.5) as engine:
        queue = Queue("q", engine, durability="replicas=1")
        assert queue.put("first").new
        with paused(replicated.replica):
            with pytest.raises(NotDurable, match=r"is in the queue, but 0 of 1 replicas") as caught:
                queue.put("second")
            assert (caught.value.confirmed, caught.value.asked) == (0, 1)
            assert caught.value.ids == [
                json.loads(_newest(replicated.master))["properties"]["delivery_tag"]
            ]
            # Since nothing was confirmed, it is asked first: nothing is put in vain.
            with pytest.raises(DurabilityUnavailable, match="nothing was put"):
                queue.put("third")
            assert queue.put("fourth", durability="memory").new
        assert count(replicated.master) == 3
        assert queue.put("fifth").new


def _newest(server: Server) -> Any:
    return server.client().lindex("q", 0)


@VALKEY
def test_of_many_those_in_the_queue_are_named(replicated: Replicated) -> None:
    options = {"durability_timeout": 0.5, "durability": "replicas=1"}
    with Engine(replicated.url, **options) as engine:
        queue = Queue("q", engine)
        assert len(queue.put_many(range(2))) == 2
        with paused(replicated.replica), pytest.raises(NotDurable) as caught:
            queue.put_many(range(1500))
        assert len(caught.value.ids) == 1000  # of the first call
        assert count(replicated.master) == 1002


@VALKEY
@pytest.mark.parametrize("how", ["the same id", "the same call"])
def test_a_repeated_put_is_confirmed_for_the_first(replicated: Replicated, how: str) -> None:
    """On a connection that wrote nothing a WAIT is answered at once, whatever the replica has."""
    options = {"durability_timeout": 0.5}
    with Engine(replicated.url, **options) as engine, Engine(replicated.url, **options) as other:
        durability = engine.durability("replicas=1")
        assert durability is not None
        for each in (engine, other):
            Queue("other", each, durability="replicas=1").put("confirmed")
        with paused(replicated.replica):
            if how == "the same id":
                Queue("q", engine).put("x", id="one")
                again = Queue("q", other, durability="replicas=1")
                with pytest.raises(NotDurable):
                    again.put("x", id="one")
            else:
                call = call_of_put(Queue("q", engine))
                engine.run(call)
                call.durability = durability
                other._pool.close()
                with pytest.raises(NotDurable):
                    other.run(call.again())
        assert count(replicated.master) == 1
        is_known = how == "the same id"
        assert Queue("q", other, durability="replicas=1").put("x", id="one").new is not is_known


@VALKEY
def test_an_answer_lost_while_it_waits_puts_nothing_twice(replicated: Replicated) -> None:
    with Engine(replicated.url) as engine, ThreadPoolExecutor() as pool:
        queue = Queue("q", engine, durability="replicas=1")
        queue.put("first")
        admin = replicated.master.client()
        with paused(replicated.replica):
            putting = pool.submit(queue.put, "second")
            wait_until("the WAIT", lambda: admin.info("clients")["blocked_clients"] == 1)
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_until("it again", lambda: calls_of(replicated.master, "wait")["wait"] >= 2)
        assert putting.result(10).new
        assert count(replicated.master) == 2


@VALKEY
@pytest.mark.parametrize("make", ["sync", "asyncio"])
def test_it_may_take_longer_than_other_answers(replicated: Replicated, make: str) -> None:
    options = {"durability_timeout": 0.6, "socket_timeout": 0.2}

    async def wait() -> float:
        async with AsyncEngine(replicated.url, **options) as engine:
            queue = AsyncQueue("q", engine, durability="replicas=1")
            await queue.put("first")
            with paused(replicated.replica):
                began = time.monotonic()
                with pytest.raises(NotDurable):
                    await queue.put("second")
                return time.monotonic() - began

    if make == "asyncio":
        assert asyncio.run(wait()) >= 0.6
    else:
        with Engine(replicated.url, **options) as engine:
            queue = Queue("q", engine, durability="replicas=1")
            queue.put("first")
            with paused(replicated.replica):
                began = time.monotonic()
                with pytest.raises(NotDurable):
                    queue.put("second")
                assert time.monotonic() - began >= 0.6
    assert count(replicated.master) == 2


@VALKEY
def test_in_asyncio_none_waits_behind_it(replicated: Replicated) -> None:
    async def main() -> None:
        options = {"durability_timeout": 1.0}
        async with AsyncEngine(replicated.url, **options) as engine:
            queue, sure = AsyncQueue("q", engine), AsyncQueue("q", engine, durability="replicas=1")
            await sure.put("first")
            admin = replicated.master.client()
            with paused(replicated.replica):
                putting = [asyncio.ensure_future(sure.put("sure")) for _ in range(3)]
                await asyncio.to_thread(
                    wait_until,
                    "all to wait",
                    lambda: admin.info("clients")["blocked_clients"] == 3,
                )
                for _ in range(50):
                    await queue.put("at once")
                assert not any(each.done() for each in putting)
            await asyncio.gather(*putting)

    asyncio.run(main())
    assert count(replicated.master) == 54


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


@VALKEY
def test_memory_costs_nothing_and_others_one_command(replicated: Replicated) -> None:
    asked = ("wait", "waitaof", "evalsha", "hello", "config|get")
    with Engine(replicated.url) as engine:
        queue = Queue("q", engine)
        queue.put("first")
        queue.put("sure", durability="replicas=1")
        admin = replicated.master.client()
        admin.config_resetstat()
        for _ in range(10):
            queue.put("x")
        assert calls_of(replicated.master, *asked[:3]) == {"wait": 0, "waitaof": 0, "evalsha": 10}
        admin.config_resetstat()
        before = admin.info("stats")["total_reads_processed"]
        queue.put_many(["x"] * 100, durability="replicas=1")
        after = admin.info("stats")["total_reads_processed"]
        assert calls_of(replicated.master, *asked[:3]) == {"wait": 1, "waitaof": 0, "evalsha": 1}
        assert after - before <= 2 + 2  # one flight, the INFO itself, and the replica's words


# ── what a server cannot do ───────────────────────────────────────────────────────────────────


def test_what_a_server_cannot_confirm_is_said_before_anything_is_put(server: Server) -> None:
    """It has neither a replica nor an AOF."""
    with Engine(server.url, durability_timeout=0.1) as engine:
        queue = Queue("q", engine)
        with pytest.raises(
            DurabilityUnavailable, match=r"0 of 1 replicas confirmed it within 0\.1"
        ):
            queue.put("x", durability="replicas=1")
        kind = ServerTooOld if server.version < (7, 2) else DurabilityUnavailable
        with pytest.raises(kind):
            queue.put("x", durability="fsync")
        with pytest.raises(InvalidArgument, match="durability must be 'memory'"):
            queue.put("x", durability="disk")
        assert count(server) == 0
        server.client().execute_command("ACL SETUSER", "default", "-wait")
        with pytest.raises(PermissionDenied, match=r"grant \+wait"):
            queue.put("x", durability="replicas=1")
        assert count(server) == 0


def put_with(server: Server, policy: str) -> str:
    """Put one message with `fsync` where appendfsync is `policy`: what was wrong, or ""."""
    server.client().config_set("appendfsync", policy)
    with Engine(server.url, durability_timeout=0.2 if policy == "no" else 5) as engine:
        try:
            Queue("q", engine, durability="fsync").put("x")
        except DurabilityUnavailable as error:
            assert count(server) == 0
            return str(error)
        assert count(server) == 1
        return ""


@pytest.mark.parametrize("kind", ["redis-8"], indirect=True)
def test_fsync_is_what_the_server_says(own_server: Server) -> None:
    assert "with appendfsync no the server never says" in put_with(own_server, "no")
    assert put_with(own_server, "everysec") == ""


@VALKEY
def test_fsync_is_refused_where_the_server_says_yes_too_early(own_server: Server) -> None:
    """Valkey 9.1 answers WAITAOF before the fsync of `everysec`."""
    said = "before it is, unless appendfsync is always; here: everysec"
    assert said in put_with(own_server, "everysec")
    assert put_with(own_server, "always") == ""


@VALKEY
def test_who_may_not_read_the_policy_is_not_given_a_false_yes(own_server: Server) -> None:
    admin = own_server.client()
    admin.config_set("appendfsync", "always")
    admin.execute_command("ACL SETUSER", "default", "-config")
    said = r"grant \+config\|get"
    with Engine(own_server.url) as engine, pytest.raises(DurabilityUnavailable, match=said):
        Queue("q", engine, durability="fsync").put("x")
    assert count(own_server) == 0


def test_an_address_that_never_has_it_refuses_it_at_once(tmp_path: Any) -> None:
    with pytest.raises(InvalidArgument, match="memory:// keeps nothing"):
        Queue("q", "memory://", durability="fsync")
    with pytest.raises(InvalidArgument, match="has no replicas"):
        Queue("q", f"embedded://{tmp_path}", durability="replicas=1")
    with pytest.raises(InvalidOptions, match="durability: got 'replicas=0'"):
        Engine("redis://localhost", durability="replicas=0")


# ── Kombu and Celery ──────────────────────────────────────────────────────────────────────────


@VALKEY
def test_kombu_messages_say_it_each_or_by_the_transport(replicated: Replicated) -> None:
    url = replicated.url.replace("redis+socket:", "atomq+socket:")
    options = {"durability_timeout": 0.5}
    retry = {"max_retries": 2, "interval_start": 0}
    with Connection(url, transport_options=options) as connection:
        producer = connection.Producer(auto_declare=False)
        producer.publish("x", routing_key="q", durability="replicas=1")
        assert b"durability" not in _newest(replicated.master)
        with producer.batch():
            for _ in range(3):
                producer.publish("x", routing_key="q", durability="replicas=1")
        with paused(replicated.replica):
            producer.publish("x", routing_key="q")
            with pytest.raises(NotDurable) as caught:  # and Kombu does not publish it again
                producer.publish(
                    "x", routing_key="q", durability="replicas=1", retry=True, retry_policy=retry
                )
            assert len(caught.value.ids) == 1
        assert count(replicated.master) == 6
    with Connection(url, transport_options={**options, "durability": "replicas=1"}) as connection:
        producer = connection.Producer(auto_declare=False)
        producer.publish("x", routing_key="q")
        with paused(replicated.replica), pytest.raises(NotDurable):
            producer.publish("x", routing_key="q")


@VALKEY
def test_a_celery_task_says_it_by_itself_or_by_its_route(replicated: Replicated) -> None:
    app = Celery("durable", broker=replicated.url.replace("redis+socket:", "atomq+socket:"))
    app.conf.broker_transport_options = {"durability_timeout": 0.5}
    app.conf.task_routes = {"pay": {"queue": "pay", "durability": "replicas=1"}}

    @app.task(name="mail")
    def mail() -> None: ...

    @app.task(name="pay")
    def pay() -> None: ...

    pay.delay()
    mail.apply_async(durability="replicas=1")
    with paused(replicated.replica):
        mail.delay()
        with pytest.raises(NotDurable):
            pay.delay()
        with pytest.raises(OperationalError, match="nothing was put"):
            mail.apply_async(durability="replicas=1")
    assert (count(replicated.master, "pay"), count(replicated.master, "celery")) == (2, 2)
    app.close()


# ── failovers ─────────────────────────────────────────────────────────────────────────────────


class Producers:
    """The library's, sync and asyncio, and Kombu's: they put numbers and note what is confirmed.

    Each has a queue of the name that is given for its kind.
    """

    def __init__(self, url: str, names: dict[str, str], **options: Any) -> None:
        self.put: list[tuple[str, int]] = []
        self.troubles: set[str] = set()
        self.names = names
        self._url, self._stop = url, threading.Event()
        self._options = {"durability_timeout": 1.0, "durability": "replicas=1", **options}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Put until the block ends, then raise what is no word of ours."""
        with ThreadPoolExecutor() as pool:
            running = [pool.submit(getattr(self, f"_{kind}")) for kind in self.names]
            try:
                self.await_all(0)
                yield
            finally:
                self._stop.set()
                for each in running:
                    each.result()

    def await_all(self, since: int) -> None:
        """Until each has put something more."""
        every = set(self.names.values())
        wait_until("all to put", lambda: {name for name, _ in self.put[since:]} == every, 30)

    def check(self, server: Server) -> None:
        """Each that was confirmed is there, none twice."""
        db = server.client()
        left = [
            (name, json.loads(raw)["headers"]["n"])
            for name in self.names.values()
            for raw in db.lrange(_list_of(name, self._url), 0, -1)
        ]
        lost = set(self.put) - set(left)
        assert not lost, f"{len(lost)} of {len(self.put)} confirmed messages were lost"
        assert len(left) == len(set(left)), "a message is there twice"

    def _failed(self, error: Exception) -> None:
        self.troubles.add(type(error.__cause__ or error).__name__)

    def _sync(self) -> None:
        with Engine(self._url, **self._options) as engine:
            queue, number = Queue(self.names["sync"], engine), 0
            while not self._stop.wait(0.005):
                try:
                    queue.put("x", headers={"n": number})
                    self.put.append((queue.name, number))
                except (NotDurable, DurabilityUnavailable, ServerUnavailable) as error:
                    self._failed(error)
                number += 1

    async def _asynchronous(self) -> None:
        async with AsyncEngine(self._url, **self._options) as engine:
            queue, number = AsyncQueue(self.names["async"], engine), 0
            while not self._stop.is_set():
                try:
                    await queue.put("x", headers={"n": number})
                    self.put.append((queue.name, number))
                except (NotDurable, DurabilityUnavailable, ServerUnavailable) as error:
                    self._failed(error)
                number += 1
                await asyncio.sleep(0.005)

    def _async(self) -> None:
        asyncio.run(self._asynchronous())

    def _kombu(self) -> None:
        url = self._url.replace("sentinel:", "atomq-sentinel:")
        with Connection(url, transport_options=self._options) as connection:
            name, number = self.names["kombu"], 0
            producer = connection.Producer(auto_declare=False)
            while not self._stop.wait(0.005):
                try:
                    producer.publish("x", routing_key=name, headers={"n": number}, retry=False)
                    self.put.append((name, number))
                except (NotDurable, DurabilityUnavailable, ServerUnavailable) as error:
                    self._failed(error)
                number += 1


def _list_of(name: str, url: str) -> str:
    return QueueKeys(name, layout="cluster" if "cluster" in url else "stock").ready[0]


@pytest.mark.slow
@VALKEY
@pytest.mark.parametrize("planned", [False, True], ids=["SIGKILL", "planned"])
def test_no_confirmed_message_is_lost_by_a_failover(sentinel: Sentinel, planned: bool) -> None:
    assert sentinel.sentinel is not None
    names = {kind: kind for kind in ("sync", "async", "kombu")}
    producers = Producers(sentinel.url, names, master_name=NAME)
    with producers.run():
        if planned:
            admin = sentinel.sentinel.client()
            # Its clients hear of the new master late, and go on at the old one.
            admin.execute_command("ACL SETUSER", "default", "-subscribe")
            wait_until(
                "the failover to begin",
                lambda: admin.execute_command("SENTINEL", "FAILOVER", NAME),
            )
            wait_until("the switch", lambda: sentinel.master_port() == sentinel.replica.port)
            wait_until("the lack of a replica", lambda: producers.troubles)
        else:
            admin = sentinel.master.client()
            with paused(sentinel.replica):
                wait_until("all to wait", lambda: admin.info("clients")["blocked_clients"] == 3)
                sentinel.master.kill()
            sentinel.fail_over()
            sentinel.master.start()
        # As the Sentinel does, some ten seconds later.
        sentinel.master.client().replicaof("127.0.0.1", str(sentinel.replica.port))
        producers.await_all(len(producers.put))
    producers.check(sentinel.replica)


@pytest.fixture(scope="module")
def cluster_of_six(kind: str) -> Iterator[Cluster]:
    with Cluster(kind, nodes=3, replicas=True) as cluster:
        yield cluster


@pytest.mark.slow
@VALKEY
@pytest.mark.parametrize("index", [0, 1], ids=["SIGKILL", "planned"])
def test_nor_by_a_failover_in_a_cluster(cluster_of_six: Cluster, index: int) -> None:
    primary, replica = cluster_of_six.nodes[index], cluster_of_six.replicas[index]
    names = {kind: name_on(cluster_of_six, index) for kind in ("sync", "async")}
    slot = QueueKeys(names["sync"], layout="cluster").slot
    producers = Producers(cluster_of_six.url.replace("redis:", "redis+cluster:"), names)
    with producers.run():
        if index:
            cluster_of_six.fail_over(replica)
        else:
            admin = primary.client()
            with paused(replica):
                # What was sent to it before it stood still it would read when it goes on.
                admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
                wait_until("all to wait", lambda: admin.info("clients")["blocked_clients"] == 2)
                primary.kill()
        wait_until("the failover", lambda: cluster_of_six.owns(replica, slot))
        if not index:
            primary.start()
        producers.await_all(len(producers.put))
    producers.check(replica)


@VALKEY
def test_in_a_cluster_each_node_confirms_what_it_has(cluster_of_six: Cluster) -> None:
    """One flight to all nodes: what one of them cannot confirm takes nothing from the others."""
    url = cluster_of_six.url.replace("redis:", "redis+cluster:")
    names = [name_on(cluster_of_six, 2), name_on(cluster_of_six, 0), name_on(cluster_of_six, 2)]
    with Engine(url, durability_timeout=0.5) as engine:
        queues = [Queue(name, engine, durability="replicas=1") for name in names]
        for queue in queues:
            queue.put("first")
        some = [call_of_put(queue) for queue in queues]
        with paused(cluster_of_six.replicas[2]):
            found = engine.run_all(some)
            with pytest.raises(DurabilityUnavailable):
                queues[0].put("second")
            queues[1].put("second")
        assert [type(each) for each in found] == [NotDurable, Published, NotDurable]
        assert [queue.state().ready for queue in queues] == [2, 3, 2]


def call_of_put(queue: Queue) -> Call[Published]:
    engine = queue.engine
    call = flows.publish(queue.keys, [queue._plain("x")], engine.producers, engine.options)
    call.durability = queue._durability
    return call
