"""Other clusters: over TLS, one that is down as a whole, one whose first nodes have left.

Each with the sync engine and the asyncio one. `test_cluster.py` has what befalls single nodes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from atomq import cluster as cluster_map
from atomq.errors import ServerUnavailable
from atomq.keys import QueueKeys
from tests.faults.test_cluster import Calls, Make, _loop, make, name_on, seldom, url_of
from tests.servers import Cluster, free_port, tls_options, wait_until
from tests.threads import running

__all__ = ["_loop", "make"]  # fixtures

pytestmark = [
    pytest.mark.parametrize("make", ["sync", "asyncio"], indirect=True),
    pytest.mark.slow,
    pytest.mark.alone,
]


ON_TLS = pytest.mark.parametrize("kind", ["redis-7"], indirect=True)  # the wheels have no TLS


class TlsCluster(Cluster):
    """Nodes that speak TLS alone, among themselves too. The first lost slot stops all of them."""

    def __init__(self, kind: str, directory: Path, nodes: int) -> None:
        super().__init__(kind, nodes, options={"cluster-require-full-coverage": "yes"})
        options, _ = tls_options(directory, "127.0.0.1")
        self.authority = str(directory / "ca.crt")
        for node in self.nodes:
            node.port = free_port()
            node._options |= options
            node._options |= {"tls-cluster": "yes", "port": "0", "tls-port": str(node.port)}

    def engine(self, make: Make, **options: Any) -> Any:
        """An engine that knows of the first node only."""
        url = f"rediss+cluster://127.0.0.1:{self.nodes[0].port}"
        return make.engine(url, ssl={"ssl_ca_certs": self.authority}, **options)


@pytest.fixture(scope="module")
def tls(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCluster]:
    with TlsCluster(kind, tmp_path_factory.mktemp("tls"), nodes=2) as cluster:
        yield cluster


@ON_TLS
def test_over_tls_all_nodes_are_found_from_one(tls: TlsCluster, make: Make) -> None:
    engine = tls.engine(make)
    queues = [make.queue(name_on(tls, index), engine) for index in (0, 1)]
    got: list[str] = []
    stop = threading.Event()
    receiver = make.receiver(queues)

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(1, 2, stop=stop):
                got.append(message.body)
                message.complete(message.body.upper())

    with running(consume, stop=stop):
        for queue in queues * 2:
            assert queue.put(queue.name).wait(5) == queue.name.upper()
    receiver.close()
    assert got == [queue.name for queue in queues * 2]


@ON_TLS
def test_a_certificate_that_is_not_trusted_is_named(tls: TlsCluster, make: Make) -> None:
    engine = make.engine(f"rediss+cluster://127.0.0.1:{tls.nodes[0].port}", retry_budget=0.5)
    for _ in range(3):  # the nodes are not asked again for each call
        with pytest.raises(ServerUnavailable, match="certificate verify failed"):
            make.queue("q", engine).put(1)


@ON_TLS
def test_a_cluster_that_needs_all_slots_is_waited_for_as_a_whole(
    tls: TlsCluster, make: Make
) -> None:
    """`cluster-require-full-coverage yes`: without one slot it serves none, and says so."""
    seldom(make, "down", ("down", "sync"))
    name, other = name_on(tls, 0), name_on(tls, 1)
    lost = QueueKeys(other, layout="cluster").slot
    engine = tls.engine(make)
    queue = make.queue(name, engine)
    hasty = make.queue(name, tls.engine(make, retry_budget=0.2))
    got: list[str] = []
    stop = threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            with message:
                got.append(message.body)

    def is_connected() -> bool:
        with suppress(ServerUnavailable):  # a handshake may take longer than its budget
            hasty.state()
            return True
        return False

    wait_until("it to have a connection", is_connected)
    with running(consume, stop=stop):
        hasty.put("first")
        wait_until("it", lambda: got == ["first"])
        for node in tls.nodes:
            node.client().execute_command("CLUSTER DELSLOTS", lost)
        wait_until("both to know", lambda: all(map(tls.is_down, tls.nodes)))
        with pytest.raises(ServerUnavailable, match="down"):
            hasty.put("x")
        patient = running(lambda: queue.put("second"))
        with patient:
            time.sleep(0.2)
            tls.nodes[1].client().execute_command("CLUSTER ADDSLOTS", lost)
        wait_until("it", lambda: "second" in got, 5)
        make.queue(other, engine).put("third")


@pytest.fixture(scope="module")
def whole(kind: str) -> Iterator[Cluster]:
    """Three primaries, each with a replica, of which each slot is needed for any."""
    options = {"cluster-require-full-coverage": "yes", "cluster-node-timeout": "1000"}
    with Cluster(kind, nodes=3, replicas=True, options=options) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_cluster_that_needs_all_slots_goes_on_once_another_primary_is_elected(
    whole: Cluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then no shard serves: calls wait, and so do consumers, without an error."""
    index = 0 if make.kind == "sync" else 1
    master, heir = whole.nodes[index], whole.replicas[index]
    engine, other = make.engine(url_of(whole)), whole.nodes[2]
    names = [name_on(whole, index), name_on(whole, 2)]
    queues = [make.queue(name, engine) for name in names]
    got: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    stop = threading.Event()
    receiver = make.receiver(queues)

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(4, 1, patient=True, stop=stop):
                with message:
                    name, number = message.body
                    got[name].append((time.monotonic(), number))

    def putting(queue: Any) -> Calls:
        numbers = itertools.count()
        return Calls(other, lambda: queue.put([queue.name, next(numbers)]))

    puts = [putting(queue) for queue in queues]
    with running(consume, stop=stop):
        with puts[0].run(), puts[1].run():
            wait_until("both", lambda: all(got.values()))
            replicated = len(puts[0].done)
            master.client().execute_command("WAIT", 1, 1000)
            master.kill()
            heir.pause()  # there is no election meanwhile
            wait_until("all to be down", lambda: whole.is_down(other), 10)
            down = time.monotonic()
            time.sleep(1.2)
            heir.resume()
            wait_until("the election", lambda: whole.owns(heir, engine.keys(names[0]).slot), 10)
            elected = time.monotonic()
            for one, came in zip(puts, got.values(), strict=True):
                wait_until("puts to go on", lambda one=one: one.done[-1] > elected, 3)
                wait_until("the consumer to go on", lambda came=came: came[-1][0] > elected, 3)
        went_on = [min(at for at in one.done if at > elected) - elected for one in puts]
        went_on += [min(at for at, _ in each if at > elected) - elected for each in got.values()]
        # What the heir had not heard of is lost with the old primary: replication is asynchronous.
        safe = [n for n, at in enumerate(puts[0].done) if n < replicated or at > elected]
        for numbers, came in zip((safe, range(len(puts[1].done))), got.values(), strict=True):
            wait_until("all", lambda n=numbers, came=came: {*n} <= {m for _, m in came}, 10)
    assert [error for one in puts for error in one.errors] == []
    assert max(went_on) < 1, went_on
    assert not any(down + 0.3 < at < elected - 0.3 for one in puts for at in one.done)
    said = [m for r in caplog.records if (m := r.getMessage()).startswith("waiting for")]
    assert len(said) == len({m.split(": ")[0] for m in said}), said
    receiver.close()


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_process_goes_on_when_the_nodes_of_its_url_have_left(
    make: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the others from their answers. One that starts does not."""
    seldom(make, "left", ("left", "asyncio"))
    with Cluster(kind, nodes=2, spare=True) as cluster:
        assert cluster.spare is not None
        url = f"redis+cluster://127.0.0.1:{cluster.spare.port}"
        engine, heir = make.engine(url), cluster.nodes[1]
        name = name_on(cluster, 0)
        queue = make.queue(name, engine)
        got: list[Any] = []
        stop = threading.Event()

        def consume() -> None:
            for message in queue.consume(stop=stop):
                with message:
                    got.append(message.body)

        with running(consume, stop=stop):
            queue.put(0)
            wait_until("it", lambda: got == [0])
            gone = cluster.id_of(cluster.spare)
            cluster.spare.stop()
            for node in cluster.nodes:
                node.client().execute_command("CLUSTER FORGET", gone)
            slot = QueueKeys(name, layout="cluster").slot
            for node in reversed(cluster.nodes):
                node.client().execute_command("CLUSTER DELSLOTS", slot)
            for node in cluster.nodes:
                node.client().execute_command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
            heir.client().execute_command("CLUSTER ADDSLOTS", slot)
            queue.put(1)
            wait_until("it", lambda: 1 in got, 5)
        make.queue(name, make.engine(url)).put("by another engine")
        monkeypatch.setattr(cluster_map, "_heard_of", {})  # as in a new process
        new = make.queue(name, make.engine(url, retry_budget=0.2))
        with pytest.raises(ServerUnavailable):
            new.put("x")
