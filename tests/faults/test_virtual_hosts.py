"""Applications of one cluster, each with a `virtual_host` of its own, where it has no databases."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncQueue, Engine, Queue, calls
from atomq.errors import PermissionDenied, ServerError, ServerUnavailable
from atomq.keys import namespace, namespace_in
from atomq.retrying import Retry
from atomq.virtual_host import VirtualHost
from tests.faults.test_cluster import PARTIAL, name_on, url_of
from tests.servers import Cluster, Server

HOSTS = (0, 1, 2, 12)
UNABLE = pytest.mark.parametrize(
    "kind",
    ["redis-7", pytest.param("redis-8", marks=pytest.mark.long), "valkey-9"],
    indirect=True,
)


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    """Three primaries, without numbered databases."""
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        yield cluster


@pytest.fixture
def empty(three: Cluster) -> Cluster:
    three.reset()
    return three


def of(cluster: Cluster, host: int) -> str:
    """The URL of a virtual host."""
    first, *others = url_of(cluster).split(";")
    return ";".join([first if host == 0 else f"{first}/{host}", *others])


def keys_in(cluster: Cluster) -> dict[str, set[str]]:
    """The keys of each namespace."""
    found: dict[str, set[str]] = {}
    for node in cluster.nodes:
        for key in node.client().keys("*"):
            text = key.decode()
            _, _, tag = text.partition("{")
            found.setdefault(namespace_in(tag.removeprefix(".") or text), set()).add(text)
    return found


@pytest.mark.slow
@UNABLE
class TestWithoutDatabases:
    def test_they_share_nothing(self, empty: Cluster) -> None:
        with ExitStack() as stack:
            queues = {
                host: Queue("orders", stack.enter_context(Engine(of(empty, host))))
                for host in HOSTS
            }
            sent = {host: queue.put(f"of {host}", id="one") for host, queue in queues.items()}
            for host, queue in queues.items():
                assert sent[host].new
                queue.put("later", delay=60, id="later")
                queue.put("bad", priority=9)
                message, bad = queue.claim_many(3)
                assert (message.body, bad.body) == (f"of {host}", "bad")
                bad.reject(f"no {host}")
                message.complete(host)
                assert queue.claim() is None
            for host, queue in queues.items():
                assert sent[host].wait(2) == host
                state = queue.state()
                assert (state.ready, state.delayed, state.dead, state.unacked) == (0, 1, 1, 0)
                assert [letter.reason for letter in queue.peek("dead")] == [f"no {host}"]
                found = queue.engine.overview()
                assert [row.name for row in found.queues] == ["orders"]
            assert queues[1].cancel("later")[0] is calls.Verdict.DONE
            assert queues[1].redrive() == 1
            queues[2].delete(force=True)
            assert [queues[host].state().delayed for host in HOSTS] == [1, 0, 0, 1]
            assert [queues[host].state().ready for host in HOSTS] == [0, 1, 0, 0]

    def test_all_their_keys_bear_the_namespace_in_the_tag_but_those_of_0(
        self, empty: Cluster
    ) -> None:
        for host in (0, 1):
            with Queue("orders", of(empty, host)) as queue:
                queue.put("x", priority=3)
                queue.put("y", id="y", tracked=True)
                queue.claim().complete("done")  # type: ignore[union-attr]
                slot = queue.keys.slot
            assert slot == queue.keys.slot
        found = keys_in(empty)
        assert found.keys() == {"", "_atomq.1:"}
        assert {key.replace("_atomq.1:", "") for key in found["_atomq.1:"]} >= {
            "_atomq.{orders}.meta",
            "_atomq.register{.}.queues",
        }
        assert not [key for key in found[""] if ":" in key]

    def test_the_option_and_the_path_say_the_same_and_so_does_a_prefix(
        self, empty: Cluster
    ) -> None:
        """What an older release, or a cluster that has databases by now, is given."""
        url = url_of(empty)
        with (
            Engine(of(empty, 1)) as path,
            Engine(url, virtual_host=1) as option,
            Engine(url, global_keyprefix=namespace(1)) as prefix,
            Engine(of(empty, 1), global_keyprefix="app:") as both,
        ):
            Queue("q", path).put("x")
            assert Queue("q", both).claim() is None
            for engine in (option, prefix):
                message = Queue("q", engine).claim()
                assert message is not None
                message.release()

    def test_partitions_lie_on_all_shards_in_each(self, empty: Cluster) -> None:
        for host in (1, 2):
            with Queue("orders", of(empty, host), partitions=3) as queue:
                queue.put_many(range(9))
                slots = [part.keys.slot for part in queue.partitions()]
                assert len({empty.owner(slot).port for slot in slots}) == 3
                with Queue("orders", of(empty, 0)) as other:
                    assert other.state().partitions == ()
                bodies = [message.body for message in queue.claim_many(9)]
                assert bodies
                queue.delete(force=True)

    def test_a_consumer_that_waits_is_woken_by_its_own(self, empty: Cluster) -> None:
        """Many queues of one node, and few: both ways to wait."""
        names = [f"q{number}" for number in range(30)]
        with ExitStack() as stack:
            one, two = (stack.enter_context(Engine(of(empty, host))) for host in (1, 2))
            got: list[Any] = []

            def consume(queue: Queue) -> None:
                got.append(queue.claim(5).body)  # type: ignore[union-attr]

            threads = [
                threading.Thread(target=consume, args=(Queue(name, one),)) for name in names[:3]
            ]
            for thread in threads:
                thread.start()
            for engine, body in ((two, "two"), (one, "one")):
                for name in names[:3]:
                    Queue(name, engine).put(body)
            for thread in threads:
                thread.join()
            assert got == ["one"] * 3

    def test_asyncio_asks_beside_its_event_loop(
        self, empty: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        ask = VirtualHost._ask

        def noted(self: VirtualHost, retry: Retry) -> str:
            asked.append(threading.get_ident())
            return ask(self, retry)

        monkeypatch.setattr(VirtualHost, "_ask", noted)
        firsts: list[Callable[[AsyncQueue], Any]] = [
            lambda queue: queue.put("x"),
            lambda queue: queue.put_many(["x", "y"]),
            lambda queue: queue.claim(),
            lambda queue: queue.state(),
            lambda queue: queue.peek(),
            lambda queue: queue.get("x"),
            lambda queue: queue.wait("x", 0.01),
            lambda queue: queue.pause(),
            lambda queue: queue.resume(),
            lambda queue: queue.purge(),
            lambda queue: queue.cancel("x"),
            lambda queue: queue.engine.overview(),
            lambda queue: queue.engine.command("PING"),
            lambda queue: queue.delete(),
        ]

        async def main() -> None:
            for number, first in enumerate(firsts):
                async with AsyncQueue("q", of(empty, 30 + number)) as queue:
                    with suppress(TimeoutError):  # no result comes
                        await first(queue)
                    await queue.put("z")
                    await queue.resume()

        asyncio.run(main())
        assert len(asked) == len(firsts)
        assert threading.get_ident() not in asked

    def test_tasks_and_threads_of_one_process_ask_once(
        self, empty: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        ask = VirtualHost._ask
        monkeypatch.setattr(
            VirtualHost, "_ask", lambda self, retry: (asked.append(1), ask(self, retry))[1]
        )

        async def main(url: str) -> None:
            async with AsyncEngine(url) as engine:
                await asyncio.gather(*(AsyncQueue(f"q{n}", engine).put(n) for n in range(8)))

        url = of(empty, 50)
        with Engine(url) as engine:
            threads = [
                threading.Thread(target=Queue(f"q{n}", engine).put, args=(n,)) for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            asyncio.run(main(url))
        assert len(asked) == 1


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_nothing_is_asked_of_a_cluster_that_is_away_before_it_is_needed(kind: str) -> None:
    with Cluster(kind, nodes=1) as cluster:
        url = of(cluster, 1)
        cluster.nodes[0].kill()
        queue = Queue("q", url, retry_budget=0.2)
        with queue:
            began = time.monotonic()
            with pytest.raises(ServerUnavailable):
                queue.put("x")
            assert time.monotonic() - began < 3
            assert "q" in repr(queue.keys)


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_cluster_with_databases_has_no_namespaces(kind: str) -> None:
    with Cluster(kind, options={"cluster-databases": "2"}) as cluster:
        url = url_of(cluster)
        with Queue("q", f"{url}/1") as queue:
            queue.put("x")
            assert queue.engine.namespace == ""
        assert keys_in(cluster) == {}  # of database 0
        with Queue("q", f"{url}/2") as queue, pytest.raises(ServerError, match="no such database"):
            queue.put("x")
        cluster.nodes[0].client().execute_command(
            "ACL SETUSER", "someone", "on", ">right", "~*", "+@all", "-select"
        )
        denied = f"{url.replace('//', '//someone:right@')}/1"
        with Queue("q", denied) as queue, pytest.raises(PermissionDenied, match="select"):
            queue.put("x")


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_nodes_that_differ_in_their_databases_say_so_or_agree_on_a_namespace(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds is what the node says that was asked, which is one by chance."""
    cluster = Cluster(kind, nodes=2)
    some, none = cluster.nodes
    some._options["cluster-databases"] = "4"
    found: list[str] = []
    with cluster:
        for asked in (some, none):
            url, place = f"redis+cluster://127.0.0.1:{asked.port}/1", ("127.0.0.1", asked.port)
            monkeypatch.setattr("atomq.cluster.random.choice", lambda _, place=place: place)
            for index in range(2):
                with Queue(name_on(cluster, index), url, retry_budget=1.0) as queue:
                    try:
                        queue.put("x")
                    except ServerError as error:
                        found.append(str(error).partition(" (")[0])
                    else:
                        found.append(queue.engine.namespace)
    assert found == ["", "the server has no such database", "_atomq.1:", "_atomq.1:"]


def test_a_single_server_is_no_cluster_in_a_virtual_host_either(server: Server) -> None:
    url = server.tcp_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with Queue("q", f"{url}/1") as queue, pytest.raises(ServerError, match="no cluster"):
        queue.put("x")
