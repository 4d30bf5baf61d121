"""What tasks put into a queue with partitions at the same moment: few calls, each its own end."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncQueue, InvalidMessage, Queue, ServerFull, ServerUnavailable
from tests.servers import Cluster, Server, full_memory, wait_until

pytestmark = [pytest.mark.parametrize("kind", ["valkey-9"], indirect=True), pytest.mark.alone]
PARTITIONS = 12
PARTIAL = {"cluster-require-full-coverage": "no"}

Work = Callable[[AsyncQueue], Awaitable[Any]]


@pytest.fixture(scope="module")
def _three(kind: str) -> Iterator[Cluster]:
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        yield cluster


@pytest.fixture
def three(_three: Cluster) -> Cluster:
    for node in _three.nodes:
        node.client().flushall()
    return _three


def url_of(cluster: Cluster) -> str:
    return ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in cluster.nodes)


def run(url: str, work: Work, **options: Any) -> Any:
    """What `work` answers, with a queue of whose servers each has answered and has the scripts."""

    async def main() -> Any:
        async with AsyncEngine(url, **options) as engine:
            queue = AsyncQueue("q", engine, partitions=PARTITIONS)
            for part in await queue.partitions():  # type: ignore[attr-defined]
                await part.put("first", delay=1000)
            return await work(queue)

    return asyncio.run(main())


def node_of(cluster: Cluster, queue: AsyncQueue) -> Server:
    return cluster.nodes[queue.keys.slot * 3 // 16384]


def home_of(queue: AsyncQueue, key: str) -> AsyncQueue:
    found: AsyncQueue = queue._parts[queue._map.of_key(key)]  # type: ignore[attr-defined]
    return found


def bodies(url: str, is_there: Callable[[AsyncQueue], bool] = lambda _: True) -> Counter[Any]:
    """What is ready in all partitions, or in some."""
    with Queue("q", url, partitions=PARTITIONS) as queue:
        found: Counter[Any] = Counter()
        for part in queue.partitions():  # type: ignore[attr-defined]
            while is_there(part) and (messages := part.claim_many(1000)):
                found.update(message.body for message in messages)
                part.ack_many(messages)
        return found


def spent(nodes: list[Server]) -> Counter[str]:
    """How often each command ran, those inside scripts too."""
    found: Counter[str] = Counter()
    for node in nodes:
        stats: Any = node.client().info("commandstats")
        found.update({name[8:]: each["calls"] for name, each in stats.items()})
    del found["info"]
    return found


@pytest.mark.parametrize("place", ["a cluster", "one server"])
def test_64_tasks_share_calls_and_the_shards_share_the_work(
    three: Cluster, server: Server, place: str
) -> None:
    nodes, url = [server], server.tcp_url
    if place == "a cluster":
        nodes, url = three.nodes, url_of(three)
    each = 270  # bursts of 128 to 191: three times as many as make a shard differ by an eighth

    async def work(queue: AsyncQueue) -> tuple[Counter[str], list[Any]]:
        async def puts(task: int) -> list[Any]:
            return [await queue.put([task, n]) for n in range(each)]

        before = spent(nodes)
        sent = await asyncio.gather(*map(puts, range(64)))
        return spent(nodes) - before, [one for some in sent for one in some]

    commands, sent = run(url, work)
    count = 64 * each
    assert commands["evalsha"] < 0.1 * count, "1 without sharing"
    assert commands.total() < 0.5 * count, "5 without sharing"
    by_part = Counter(one.queue.name for one in sent)
    assert len(by_part) == PARTITIONS
    assert all(one.id.endswith(one.queue._id_suffix) for one in sent)
    if place == "a cluster":
        by_node = Counter(node_of(three, one.queue).port for one in sent)
        assert max(by_node.values()) < 1.15 * count / 3
        assert min(by_node.values()) > 0.85 * count / 3


def test_what_is_put_in_one_turn_of_the_loop_goes_to_one_partition(three: Cluster) -> None:
    async def work(queue: AsyncQueue) -> tuple[set[str], set[str]]:
        some = await asyncio.gather(*(queue.put(n) for n in range(150)))
        more = await asyncio.gather(*(queue.put(n) for n in range(150)))
        return {sent.queue.name for sent in some}, {sent.queue.name for sent in more}

    some, more = run(url_of(three), work)
    assert len(some) == len(more) == len(some ^ more) - 1 == 1


def test_large_batches_between_single_puts_go_to_all_partitions(three: Cluster) -> None:
    """The next partition is the one that got the fewest messages."""

    async def work(queue: AsyncQueue) -> Counter[str]:
        put: Counter[str] = Counter()
        for n in range(2 * PARTITIONS):
            for sent in [await queue.put(n), *await queue.put_many(range(30))]:
                put[sent.queue.name] += 1
        return put

    put = run(url_of(three), work)
    assert len(put) == PARTITIONS
    assert max(put.values()) - min(put.values()) <= 31


def test_what_has_keys_shares_a_call_for_each_partition_and_keeps_its_order(
    three: Cluster,
) -> None:
    keys = "abcdefgh"

    async def work(queue: AsyncQueue) -> tuple[int, int]:
        before = spent(three.nodes)["evalsha"]
        puts = (queue.put([key, n], key=key) for n in range(40) for key in keys)
        await asyncio.gather(*puts)
        homes = {home_of(queue, key).name for key in keys}
        return spent(three.nodes)["evalsha"] - before, len(homes)

    calls, homes = run(url_of(three), work)
    assert homes > 1
    assert calls < 40, f"320 puts, into {homes} partitions, and not more than 12 KB in a call"
    order: dict[str, list[int]] = {key: [] for key in keys}
    with Queue("q", url_of(three), partitions=PARTITIONS) as queue:
        while found := queue.claim_many(100):
            for message in found:
                order[message.body[0]].append(message.body[1])
            queue.ack_many(found)
    assert order == {key: [*range(40)] for key in keys}


def test_one_that_fails_or_is_cancelled_does_so_alone(three: Cluster) -> None:
    async def work(queue: AsyncQueue) -> list[Any]:
        puts = [queue.put(object() if n == 7 else n) for n in range(64)]
        tasks = [asyncio.ensure_future(put) for put in puts]
        await asyncio.sleep(0)  # each has said what it puts, and only the first one is sent
        tasks[9].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(url_of(three), work)
    failed = {n: type(a) for n, a in enumerate(answers) if isinstance(a, BaseException)}
    assert failed == {7: InvalidMessage, 9: asyncio.CancelledError}
    assert bodies(url_of(three)) == Counter(n for n in range(64) if n not in (7, 9))


def test_a_full_shard_refuses_what_has_its_keys_and_the_rest_goes_elsewhere(
    three: Cluster,
) -> None:
    full = three.nodes[1]

    async def work(queue: AsyncQueue) -> None:
        keys = [f"k{n}" for n in range(64)]
        homeless = [key for key in keys if node_of(three, home_of(queue, key)) is full]
        with full_memory(full.client()):
            for some in range(PARTITIONS):  # which gets one of these each
                puts = [queue.put(some * 64 + n) for n in range(64)]
                put = await asyncio.gather(*puts)
                assert full not in [node_of(three, each.queue) for each in put]
            puts = [queue.put(key, key=key) for key in keys]
            found = await asyncio.gather(*puts, return_exceptions=True)
        keyed = dict(zip(keys, found, strict=True))
        refused = {key: each for key, each in keyed.items() if isinstance(each, BaseException)}
        assert [*refused] == homeless
        assert {type(each) for each in refused.values()} == {ServerFull}
        assert len({*map(id, refused.values())}) == len(homeless) > 8
        with ExitStack() as all_full:
            for node in three.nodes:
                all_full.enter_context(full_memory(node.client()))
            puts = [queue.put("none") for n in range(8)]
            found = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(each) for each in found] == [ServerFull] * 8
        assert len({*map(id, found)}) == 8
        wanted = Counter([*range(64 * PARTITIONS), *keys]) - Counter(homeless)
        assert await asyncio.to_thread(bodies, url_of(three)) == wanted

    run(url_of(three), work)


def test_a_call_without_an_answer_is_said_again_to_its_own_partition(three: Cluster) -> None:
    """A shard stands still for a second: what was sent to it is there once, for each caller."""

    async def work(queue: AsyncQueue) -> None:
        async def puts(task: int) -> list[Any]:
            return [await queue.put(task * 100 + n) for n in range(8)]

        given: list[float] = queue._given  # type: ignore[attr-defined]
        following = queue._parts[given.index(min(given))]  # type: ignore[attr-defined]
        still = node_of(three, following)
        still.pause()
        thaw = threading.Timer(1.0, still.resume)
        thaw.start()
        try:
            found = await asyncio.gather(*map(puts, range(64)))
        finally:
            await asyncio.to_thread(thaw.join)
        sent = [one for some in found for one in some]
        assert sum(one.queue is following for one in sent) >= 64

    run(url_of(three), work)
    assert bodies(url_of(three)) == Counter(task * 100 + n for task in range(64) for n in range(8))


class Ends:
    """What became of the puts of many tasks, by body, and the longest time that one took."""

    _numbers = itertools.count()  # no two have a body in common

    def __init__(self) -> None:
        self.put: dict[int, AsyncQueue] = {}
        self.failed: dict[int, ServerUnavailable] = {}
        self.slowest = 0.0

    async def puts(self, queue: AsyncQueue, key: str | None, until: threading.Event) -> None:
        while not until.is_set():
            number, began = next(self._numbers), time.monotonic()
            try:
                sent = await queue.put(number, key=key)
            except ServerUnavailable as error:
                self.failed[number] = error
            else:
                self.put[number] = sent.queue
                self.slowest = max(self.slowest, time.monotonic() - began)


@pytest.mark.slow
def test_a_shard_is_killed_while_64_tasks_put(three: Cluster) -> None:
    """What was under way says so, and all else goes on; a key that lies there is refused."""
    dead = three.nodes[1]
    free, homeless, living = Ends(), Ends(), Ends()

    async def work(queue: AsyncQueue) -> None:
        keys = [f"k{n}" for n in range(64)]
        there = [key for key in keys if node_of(three, home_of(queue, key)) is dead][:8]
        others = [key for key in keys if node_of(three, home_of(queue, key)) is not dead][:8]
        enough, stop = threading.Event(), threading.Event()
        tasks = [asyncio.ensure_future(free.puts(queue, None, enough)) for _ in range(48)]
        tasks += [asyncio.ensure_future(homeless.puts(queue, key, stop)) for key in there]
        tasks += [asyncio.ensure_future(living.puts(queue, key, enough)) for key in others]

        async def until(what: str, condition: Callable[[], bool]) -> None:
            await asyncio.to_thread(wait_until, what, condition)

        try:
            await until("some to be put", lambda: len(free.put) > 500)
            dead.kill()
            before = len(free.put)
            await until("more to be put", lambda: len(free.put) > before + 2000)
            enough.set()
            await until("keys to be refused", lambda: len(homeless.failed) >= 8)
        finally:
            enough.set()
            stop.set()
            await asyncio.gather(*tasks)

    def lives(part: AsyncQueue) -> bool:
        return node_of(three, part) is not dead

    try:
        run(url_of(three), work, retry_budget=1)
        found = bodies(url_of(three), lives)
    finally:
        dead.start()
    assert free.slowest < 1.5
    assert len(free.failed) <= 48, "those that were under way"
    assert not any(error.unsent for error in free.failed.values())
    assert living.put
    assert not living.failed
    for error in homeless.failed.values():
        assert str(dead.port) in str(error)
    assert len({*map(id, free.failed.values())}) == len(free.failed)
    assert max(found.values()) == 1, "none is there twice"
    kept = {body for body, part in (free.put | living.put).items() if lives(part)}
    assert len(kept) > 2000
    assert kept == found.keys()
