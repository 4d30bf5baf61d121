"""Waiting without polling and without a herd.

What one message costs the server does not depend on how many wait, and whoever dies at whatever
point costs the others a second at most.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from statistics import quantiles
from typing import Any

import pytest
from redis.exceptions import ResponseError

from atomq import AsyncEngine, AsyncMessage, AsyncQueue, AsyncReceiver, Engine, Queue, Receiver
from atomq.conversation import is_unblocked
from atomq.keys import RegisterKeys
from atomq.waiter_aio import MOST_HEARD, _Heard
from tests.proxy import Proxy
from tests.servers import Server, wait_until
from tests.threads import running

CAP = 1.0  # seconds: how long anybody waits without asking
ASKING = ("evalsha", "blpop", "client|unblock")


def commands(db: Any) -> int:
    """What consumers have sent so far."""
    stats = db.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ASKING)


@asynccontextmanager
async def waiters(
    url: str, count: int, handle: Callable[[AsyncMessage], None], names: tuple[str, ...] = ("q",)
) -> AsyncIterator[AsyncEngine]:
    """So many consumers that wait for messages of these queues."""

    async def consume(queues: list[AsyncQueue]) -> None:
        async with AsyncReceiver(queues) as receiver:
            while True:
                for message in await receiver.receive(1):
                    async with message:
                        handle(message)

    async with AsyncEngine(url) as engine:
        queues = [AsyncQueue(name, engine) for name in names]
        tasks = [asyncio.create_task(consume(queues)) for _ in range(count)]
        try:
            yield engine
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def some_tries(measure: Callable[[], float], bound: float) -> None:
    """A machine that is busy with other things makes everybody late, but not every time."""
    found = []
    for _ in range(5):
        found.append(measure())
        if found[-1] < bound:
            return
    raise AssertionError(f"{found} are not below {bound}")


async def until(test: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def blocked(db: Any) -> int:
    count: int = db.info("clients")["blocked_clients"]
    return count


# ── no herd ───────────────────────────────────────────────────────────────────────────────────


async def cost(server: Server, count: int, delay: float) -> tuple[float, list[float]]:
    """Commands a message, less those of the waiters' idle life, and how late each was handled."""
    many = 20
    handled: list[float] = []
    db = server.client()
    db.flushall()

    def handle(message: AsyncMessage) -> None:
        handled.append(time.time() - message.body)

    async with waiters(server.url, count, handle), AsyncEngine(server.url) as other:
        queue = AsyncQueue("q", other)
        await queue.state()
        await until(lambda: blocked(db) == count)
        before, began = commands(db), time.monotonic()
        for n in range(many):
            await queue.put(time.time() + delay, delay=delay)
            if not delay:
                await until(lambda n=n: len(handled) > n)
        await until(lambda: len(handled) == many)
        elapsed = time.monotonic() - began
        idle = count * elapsed / (0.79 * CAP) * 2
        return (commands(db) - before - idle) / many, handled


@pytest.mark.alone
@pytest.mark.parametrize("delay", [0, 0.1], ids=["ready", "delayed"])
def test_a_message_costs_the_same_whether_1_or_64_wait(server: Server, delay: float) -> None:
    costs = {}

    def p90(count: int) -> float:
        costs[count], late = asyncio.run(cost(server, count, delay))
        assert min(late) > -0.002, "not before its time"
        return quantiles(late, n=10)[-1]

    for count in (1, 8, 64):
        some_tries(partial(p90, count), 0.05)
    assert max(costs.values()) < 14, costs
    assert costs[64] < costs[1] + 8, costs


@pytest.mark.alone
@pytest.mark.slow
def test_delayed_messages_come_in_time_whoever_waits(server: Server) -> None:
    async def main(late: list[float]) -> None:
        def handle(message: AsyncMessage) -> None:
            late.append(time.time() - message.body)

        async with waiters(server.url, 64, handle), AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            now = time.time()
            for n in range(40):
                # Out of order: now and then one becomes the head of what is delayed.
                due = now + 0.3 + (n * 17 % 40) / 40
                await queue.put(due, at=due)
            await until(lambda: len(late) == 40)

    def p95() -> float:
        late: list[float] = []
        asyncio.run(main(late))
        assert min(late) > -0.002
        return sorted(late)[37]

    some_tries(p95, 0.05)


@pytest.mark.parametrize("engine", ["sync", "asyncio"])
def test_whoever_waits_idles(server: Server, engine: str) -> None:
    """One of them looks, and the others wait: not even a command a second."""
    db = server.client()

    async def rate() -> float:
        await until(lambda: blocked(db) == 16)
        await until(lambda: db.zcard(RegisterKeys().alive) == 1)  # it is written every 20 s
        before, began = commands(db), time.monotonic()
        await asyncio.sleep(1.2)
        return (commands(db) - before) / (time.monotonic() - began) / 16

    async def main() -> float:
        async with waiters(server.url, 16, lambda _: None):
            return await rate()

    if engine == "asyncio":
        assert asyncio.run(main()) < 0.8
        return
    with Engine(server.url) as shared, ThreadPoolExecutor(16) as pool:
        stop = threading.Event()
        receivers = [Receiver([Queue("q", shared)]) for _ in range(16)]
        done = [pool.submit(one.receive, 1, 20, stop=stop) for one in receivers]
        try:
            assert asyncio.run(rate()) < 0.8
        finally:
            stop.set()
            for each, receiver in zip(done, receivers, strict=True):
                each.result()
                receiver.close()


@pytest.mark.alone
def test_a_consumer_of_many_queues_claims_the_one_that_has_something(server: Server) -> None:
    names = tuple(f"q{n}" for n in range(30))
    got: list[str] = []

    async def main() -> None:
        async with (
            waiters(server.url, 4, lambda m: got.append(m._queue.name), names),
            AsyncEngine(server.url) as engine,
        ):
            db = server.client()
            await until(lambda: blocked(db) == 4)
            began = time.monotonic()
            for name in names:
                await AsyncQueue(name, engine).put("x")
                await until(lambda: len(got) == len(set(got)) and name in got)  # noqa: B023
            assert time.monotonic() - began < 1.5

    asyncio.run(main())
    assert tuple(got) == names


@pytest.mark.alone
def test_a_paused_queue_wakes_nobody_until_it_is_resumed(server: Server) -> None:
    got: list[int] = []

    async def main() -> None:
        async with (
            waiters(server.url, 8, lambda m: got.append(m.body)),
            AsyncEngine(server.url) as engine,
        ):
            queue, db = AsyncQueue("q", engine), server.client()
            await until(lambda: blocked(db) == 8)
            await queue.pause()
            await queue.put_many(range(5))
            before = commands(db)
            await asyncio.sleep(0.3)
            assert got == []
            assert commands(db) - before < 8
            began = time.monotonic()
            await queue.resume()
            await until(lambda: len(got) == 5)
            assert time.monotonic() - began < 0.5

    asyncio.run(main())
    assert sorted(got) == list(range(5))


# ── deaths ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def stealing_tokens(server: Server) -> Iterator[list[Any]]:
    """Consumers that take a wake-up and die before they claim."""
    stolen: list[Any] = []
    stop = threading.Event()

    def steal() -> None:
        client = server.client()
        while not stop.is_set():
            if token := client.blpop("_atomq.{q}.wake", 0.05):
                stolen.append(token)

    with running(*[steal] * 8, stop=stop):
        yield stolen


@pytest.mark.alone
@pytest.mark.slow
def test_who_dies_between_token_and_claim_costs_a_second_at_most(server: Server) -> None:
    queue = Queue("q", server.url)
    done: dict[int, float] = {}

    def consume() -> None:
        for message in queue.consume(prefetch=1, timeout=5):
            with message:
                done[message.body] = time.monotonic()
            if len(done) == 4:
                return

    put: dict[int, float] = {}
    with stealing_tokens(server) as stolen:
        thread = threading.Thread(target=consume, daemon=True)
        thread.start()
        for n in range(4):
            put[n] = time.monotonic()
            queue.put(n, delay=0.05 if n % 2 else 0)
            wait_until("it to be done", lambda n=n: n in done, 5)
        thread.join()
    assert len(stolen) > 2
    assert max(done[n] - put[n] for n in put) < 1.3
    queue.engine.close()


@pytest.mark.slow
def test_waiters_cut_off_at_any_point_lose_nothing(server: Server) -> None:
    got: list[int] = []

    async def main() -> None:
        admin = server.client()
        async with waiters(server.url, 16, lambda m: got.append(m.body)) as engine:
            engine.retry = type(engine.retry)(attempts=50, budget=10)
            with Engine(server.url, retry_attempts=9) as sync:
                queue = Queue("q", sync)
                for n in range(60):
                    await asyncio.to_thread(queue.put, n, delay=0.02 * (n % 3))
                    if n % 4 == 0:
                        for kind in ("normal", "pubsub"):  # those that wait listen too
                            admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                    await asyncio.sleep(0.005)
            await until(lambda: len(got) >= 60, 5)

    asyncio.run(main())
    assert sorted(got) == list(range(60))


@pytest.mark.alone
def test_a_waiter_that_leaves_passes_its_wake_up_on(server: Server) -> None:
    """A token that reaches a BLPOP just when its consumer gives up goes to another consumer."""
    with Engine(server.url) as engine:
        queue = Queue("q", engine)
        leaver = Receiver([queue])
        assert leaver.receive(1, 0.01) == []
        got: list[Any] = []
        # The leaver's BLPOP goes out first, so the token is its.
        waiter = engine.waiter()
        leaver._waiter = waiter
        leaver._consumer._waiting = True
        assert waiter.wait((queue.keys.wake,), 0.01) is None
        other = threading.Thread(target=lambda: got.append(queue.claim(timeout=5)))
        other.start()
        wait_until("both to wait", lambda: blocked(server.client()) == 2)
        began = time.monotonic()
        queue.put("x")
        leaver.close()
        other.join()
        assert got[0].body == "x"
        assert time.monotonic() - began < 0.3


@pytest.mark.parametrize("driver", ["sync", "asyncio"])
def test_a_wait_that_the_server_reads_after_its_end_was_asked_for_ends(
    server: Server, driver: str
) -> None:
    """CLIENT UNBLOCK travels over another connection, and may be faster: it ends nothing then."""

    def leave(url: str) -> float:
        with Engine(url) as engine, closing(engine.waiter()) as waiter:
            assert waiter.wait(("q",), 0.05) is None
            began = time.monotonic()
            assert waiter.withdraw() == []
            return time.monotonic() - began

    async def leave_loop(url: str) -> float:
        async with AsyncEngine(url) as engine:
            waiter = engine.waiter()
            assert await waiter.wait(("q",), 0.05) is None
            began = time.monotonic()
            assert await waiter.withdraw() == []
            await waiter.close()
            return time.monotonic() - began

    with Proxy(server.socket) as proxy:
        proxy.hold_request(0.5, b"BLPOP")
        took = leave(proxy.url) if driver == "sync" else asyncio.run(leave_loop(proxy.url))
    assert 0.3 < took < 2, "not the 5 s of `socket_timeout`"


@pytest.mark.alone
def test_who_minds_the_time_hands_it_over_when_it_goes(server: Server) -> None:
    """Only one consumer is told when the next delayed message falls due."""
    with Engine(server.url) as engine:
        queue = Queue("q", engine)
        put = time.monotonic()
        queue.put("x", delay=0.25)
        got: list[tuple[Any, float]] = []
        assert queue.claim() is None, "this one was told, and is gone"
        minder = Receiver([queue])
        assert minder.receive(1, 0.05) == [], "so was this one"
        others = threading.Thread(
            target=lambda: got.append((queue.claim(timeout=5), time.monotonic()))
        )
        others.start()
        others.join()
        assert got[0][0].body == "x"
        assert 0.25 <= got[0][1] - put < 0.4, "not the second that a wait takes at most"
        minder.close()


@pytest.mark.alone
def test_an_expired_lease_is_offered_within_a_second(server: Server) -> None:
    with Engine(server.url, lease=0.6) as engine, Engine(server.url) as other:
        dead = Queue("q", engine)
        dead.put("x")
        message = dead.claim()
        assert message is not None
        [held] = dead.peek("unacked")
        assert held.time_ms is not None
        dead.keeper.drop([message.receipt])
        queue = Queue("q", other)
        again = queue.claim(timeout=5)
        assert again is not None
        assert again.deliveries == 2
        assert queue.state().now_ms - held.time_ms < 1050


@pytest.mark.alone
def test_a_thousand_expired_leases_are_back_within_a_second_two_milliseconds_away(
    server: Server,
) -> None:
    many = 1000
    with Engine(server.url, lease=0.6) as engine:
        dead = Queue("q", engine)
        dead.put_many(range(many))
        held = [m.receipt for m in dead.claim_many(many)]
        assert len(held) == many
        dead.keeper.drop(held)
        expiry = max(each.time_ms or 0 for each in dead.peek("unacked", limit=many))
        with Proxy(server.socket) as far, Engine(far.url) as other:
            far.delay(2)
            queue = Queue("q", other)
            while queue.state().now_ms < expiry:
                time.sleep(0.005)
            start, got = time.monotonic(), []
            for message in queue.consume(timeout=0.5):
                got.append(message.body)
                if len(got) == many:
                    took = time.monotonic() - start
            assert sorted(got) == list(range(many))
            assert took < 1.0


def test_what_a_working_consumer_does_not_hear_stays_with_the_server(server: Server) -> None:
    """Others tell of their looks once a second, for as long as a task takes."""

    def lines() -> set[_Heard]:
        return {each for each in gc.get_objects() if type(each) is _Heard}

    async def main() -> tuple[int, Any]:
        db, others = server.client(), lines()  # of other tests, maybe
        async with AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            async with AsyncReceiver([queue]) as receiver:
                assert await receiver.receive(1, timeout=0.2) == []
                (heard,) = lines() - others
                for _ in range(3 * MOST_HEARD):
                    db.publish(queue.keys.looked, "another")
                    await asyncio.sleep(0.002)  # the loop reads what has come
                kept = len(heard._came)
                await queue.put("work")
                (message,) = await receiver.receive(1, timeout=2)
                await message.ack()
                return kept, message.body

    assert asyncio.run(main()) == (MOST_HEARD, "work")


# ── a server that refuses ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("many", [1, 6])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_wait_that_is_refused_is_not_sent_as_fast_as_it_is_answered(
    own_server: Server, is_async: bool, many: int
) -> None:
    """Newer servers check a BLPOP anew when there is something for it: it may be refused then."""
    db, worked = own_server.client(), threading.Event()
    names = [f"q{i}" for i in range(many)]

    def consume() -> None:
        engine = Engine(own_server.url)
        with engine, Receiver([Queue(name, engine) for name in names]) as receiver:
            (message,) = receiver.receive(1, 20, patient=True)
            with message:
                worked.set()

    async def consume_async() -> None:
        engine = AsyncEngine(own_server.url)
        queues = [AsyncQueue(name, engine) for name in names]
        async with engine, AsyncReceiver(queues) as receiver:
            (message,) = await receiver.receive(1, 20, patient=True)
            async with message:
                worked.set()

    with running((lambda: asyncio.run(consume_async())) if is_async else consume):
        wait_until("a consumer waits", lambda: blocked(db))
        db.config_resetstat()
        both = db.pipeline().rpush("_atomq.{q0}.wake", "").config_set("min-replicas-to-write", 1)
        both.execute()
        time.sleep(0.5)  # nothing marks the end of what must not come
        asked = commands(db) + db.info("commandstats").get("cmdstat_hello", {"calls": 0})["calls"]
        db.config_set("min-replicas-to-write", 0)
        Queue("q0", own_server.url).put("x")
        assert worked.wait(5)
    assert asked < 15


@pytest.mark.parametrize("kind", ["redis-6.2", "redis-7"], indirect=True)
def test_a_wait_is_ended_though_the_server_is_paused(own_server: Server) -> None:
    """As in a planned failover, which these servers do not always survive (redis#14164)."""
    waits, ended = own_server.client(), list[Exception]()

    def wait() -> None:
        try:
            waits.blpop("q", 5)
        except ResponseError as error:
            ended.append(error)

    number = waits.client_id()
    with Engine(own_server.url) as engine:
        own_server.client().execute_command("CLIENT PAUSE", 2000, "WRITE")
        with running(wait):
            admin = own_server.client()
            wait_until("it to wait", lambda: admin.info("clients")["blocked_clients"] == 1)
            engine._pool.unblock([(None, number)])
            wait_until("its end", lambda: ended)
    assert is_unblocked(ended[0])
    assert own_server.alive
