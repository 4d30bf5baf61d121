"""Servers in arrangements: databases of a socket, a cluster of three, a master and its heir."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from atomq import (
    AsyncEngine,
    AsyncQueue,
    AsyncReceiver,
    Engine,
    Queue,
    Receiver,
    ServerUnavailable,
)
from tests.servers import Cluster, Sentinel, Server, wait_until


def test_the_databases_of_a_socket_are_apart(server: Server) -> None:
    with (
        Engine(server.url.replace("virtual_host=0", "virtual_host=3")) as three,
        Engine(server.url) as zero,
    ):
        Queue("q", three).put("x")
        assert Queue("q", zero).claim() is None
        assert server.client(db=3).llen("q") == 1


# ── a cluster of three nodes ──────────────────────────────────────────────────────────────────

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    with Cluster(kind, nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster_url(three: Cluster) -> str:
    three.reset()
    return three.url.replace("redis://", "redis+cluster://")


@pytest.mark.slow
def test_queues_on_three_nodes_in_one_receiver(three: Cluster, cluster_url: str) -> None:
    with Engine(cluster_url) as engine:
        queues = [Queue(name, engine) for name in NAMES]
        for queue in queues:
            queue.put(queue.name)
        holding = [node for node in three.nodes if node.client().dbsize()]
        assert len(holding) == 3, "the names are chosen to lie on all nodes"
        got: list[str] = []

        def consume() -> None:
            with Receiver(queues) as receiver:
                while len(got) < 18:
                    for message in receiver.receive(4, 5):
                        with message:
                            got.append(message.body)

        thread = threading.Thread(target=consume)
        thread.start()
        wait_until("the first six", lambda: len(got) == 6)
        began = time.monotonic()
        for queue in queues:
            queue.put(queue.name)
            queue.put(queue.name, delay=0.1)
        thread.join()
        assert time.monotonic() - began < 0.8, "woken on each node"
        assert Counter(got) == Counter(dict.fromkeys(NAMES, 3))
        three.nodes[1].client().script_flush()
        for queue in queues:
            queue.put("after a flush of one node")


@pytest.mark.slow
def test_the_same_for_asyncio(three: Cluster, cluster_url: str) -> None:
    async def main() -> None:
        async with AsyncEngine(cluster_url) as engine:
            queues = [AsyncQueue(name, engine) for name in NAMES]
            got: list[str] = []

            async def consume() -> None:
                async with AsyncReceiver(queues) as receiver:
                    while len(got) < 12:
                        for message in await receiver.receive(4, 5):
                            await message.complete(message.body)
                            got.append(message.body)

            task = asyncio.create_task(consume())
            sent = [await queue.put(queue.name) for queue in queues]
            assert await asyncio.gather(*(one.wait(5) for one in sent)) == list(NAMES)
            began = time.monotonic()
            for queue in queues:
                await queue.put(queue.name, delay=0.1)
            await task
            assert time.monotonic() - began < 0.8
            assert Counter(got) == Counter(dict.fromkeys(NAMES, 2))

    asyncio.run(main())


# ── fail-over ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_fail_over_under_consumers(sentinel: Sentinel) -> None:
    """What the heir knows is handed out; what it did not hear of in time may be done twice."""
    options = {"master_name": sentinel.master_name, "lease": 2}
    got: Counter[int] = Counter()
    by: Counter[str] = Counter()
    with Engine(sentinel.url, **options) as engine, Engine(sentinel.url, **options) as other:
        queue = Queue("q", engine)
        queue.put_many(range(200))
        held = queue.claim()
        assert held is not None
        sentinel.master.client().execute_command("WAIT", 1, 2000)

        def consume() -> None:
            for message in queue.consume(prefetch=3):
                with message:
                    if message.body == -1:
                        break
                    got[message.body] += 1
                    by["thread"] += 1
                    time.sleep(0.01)

        async def consume_async() -> None:
            async with AsyncEngine(sentinel.url, **options) as aengine:
                async for message in AsyncQueue("q", aengine).consume(prefetch=3):
                    async with message:
                        if message.body == -1:
                            break
                        got[message.body] += 1
                        by["task"] += 1
                        await asyncio.sleep(0.01)

        threads = [
            threading.Thread(target=consume),
            threading.Thread(target=lambda: asyncio.run(consume_async())),
        ]
        for thread in threads:
            thread.start()
        wait_until("both to be at work", lambda: len(by) == 2)
        sentinel.replica.client().replicaof("127.0.0.1", "1")  # from here on it hears nothing
        known = len(got)
        wait_until("some more to be done", lambda: len(got) > known + 4)
        sentinel.fail_over()
        late = Queue("q", other)
        wait_until("the heir to take messages", lambda: _put(late, range(200, 210)), 15)
        wait_until("all to be done", lambda: set(got) == set(range(1, 210)), 15)
        late.put_many([-1, -1])
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        held.ack()

        def settled() -> bool:
            for message in queue.claim_many(20):
                message.ack()
            return queue.state().unacked == 0

        wait_until("what was done unheard to be handed out once more", settled)


def _put(queue: Queue, bodies: range) -> bool:
    try:
        return bool(queue.put_many(bodies))
    except ServerUnavailable:
        return False
