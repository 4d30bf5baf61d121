"""Calls that share a connection: each caller has its own answer, its own error, its own trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from atomq import (
    AsyncEngine,
    AsyncQueue,
    AtomqError,
    InvalidArgument,
    Queue,
    ServerFull,
    ServerUnavailable,
    WrongType,
    gathering_threads,
)
from tests.proxy import Proxy
from tests.servers import Server, full_memory, wait_until
from tests.threads import running

# What is tested here goes on in the client.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

Verb = Callable[[AsyncQueue], Awaitable[Any]]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


def bodies(server: Server, queue: str = "q") -> Counter[Any]:
    """What is ready, of at most 1,000 messages; lists as tuples."""
    with Queue(queue, server.url) as found:
        ready = [message.body for message in found.claim_many(1000)]
    return Counter([tuple(body) if isinstance(body, list) else body for body in ready])


def at_once(url: str, verbs: Sequence[Verb], **options: Any) -> list[Any]:
    """What tasks that say these at the same moment are answered, or what is raised for them."""

    async def main() -> list[Any]:
        async with AsyncQueue("q", url, **options) as queue:
            await queue.state()  # past the probe
            await queue.put("first", delay=1000)  # and the script is loaded
            return await asyncio.gather(*(verb(queue) for verb in verbs), return_exceptions=True)

    return asyncio.run(main())


def put(body: Any) -> Verb:
    return lambda queue: queue.put(body)


def test_calls_that_wait_at_the_same_moment_travel_together(server: Server) -> None:
    db = server.client()

    def counted() -> tuple[int, int, int]:
        info: Any = db.info("stats")
        scripts: Any = db.info("commandstats")
        calls = scripts.get("cmdstat_evalsha", {}).get("calls", 0)
        return info["total_reads_processed"], info["total_connections_received"], calls

    async def main() -> tuple[int, int, int]:
        async with AsyncQueue("q", server.url) as queue:
            await queue.put("first")

            async def puts(task: int) -> None:
                for n in range(10):
                    await queue.put([task, n])

            reads, opened, scripts = counted()
            await asyncio.gather(*map(puts, range(64)))
            now = counted()
            return now[0] - reads, now[1] - opened, now[2] - scripts

    reads, opened, scripts = asyncio.run(main())
    assert reads < 100, "640 puts, in ten rounds"
    assert opened == 0
    assert scripts < 100, "those of one moment are one call"
    assert db.hget("_atomq.{q}.stats", "published") == b"641"


def by_threads(queue: Queue, many: int, each: Callable[[int], object]) -> list[Exception | None]:
    """What is raised for each of so many threads."""
    errors: list[Exception | None] = [None] * many

    def work(thread: int) -> None:
        try:
            each(thread)
        except AtomqError as error:
            errors[thread] = error

    with running(*(partial(work, thread) for thread in range(many))):
        pass
    return errors


def test_what_many_threads_put_travels_together(
    proxy: Proxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an answer takes 20 ms, the others come; no more than two calls are worth their CPU."""
    monkeypatch.setattr(gathering_threads, "COST", 1.0)
    db = server.client()

    def scripts() -> int:
        commands: Any = db.info("commandstats")
        calls: int = commands["cmdstat_evalsha"]["calls"]
        return calls

    with Queue("q", proxy.url) as queue:
        queue.put("first")
        proxy.delay(20)
        before = scripts()
        puts = lambda thread: [queue.put([thread, n]) for n in range(20)]  # noqa: E731
        assert by_threads(queue, 16, puts) == [None] * 16
        assert scripts() - before < 200, "320 puts"
        assert db.hget("_atomq.{q}.stats", "published") == b"321"


def test_connections_cut_under_threads_that_put_lose_and_double_nothing(
    proxy: Proxy, server: Server
) -> None:
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.02):
            proxy.cut()

    with Queue("q", proxy.url, retry_attempts=9) as queue:
        queue.put(["first", 0])
        puts = lambda thread: [queue.put([thread, n]) for n in range(20)]  # noqa: E731
        with running(cut, stop=done):
            assert by_threads(queue, 32, puts) == [None] * 32
    wanted = [("first", 0)] + [(thread, n) for thread in range(32) for n in range(20)]
    assert bodies(server) == Counter(wanted)


def test_full_memory_is_told_to_each_thread_that_puts(server: Server) -> None:
    with Queue("q", server.url) as queue:
        queue.put("first")
        with full_memory(server.client()):
            errors = by_threads(queue, 8, lambda _: queue.put("x"))
        assert [type(error) for error in errors] == [ServerFull] * 8
        assert len(set(map(id, errors))) == 8
    assert bodies(server) == Counter(["first"])


def test_a_call_that_is_alone_waits_for_no_other(server: Server) -> None:
    """It is written in the same turn of the event loop."""

    async def main() -> None:
        async with AsyncQueue("q", server.url) as queue:
            for n in range(3):
                await queue.put(n)
            task = asyncio.ensure_future(queue.put("alone"))
            await asyncio.sleep(0)
            # The loop has not come round again: nothing but the call itself can have written it.
            db = server.client()
            wait_until("it to be there", lambda: db.llen("q") == 4)
            await task

    asyncio.run(main())


def test_one_that_is_refused_is_refused_alone(server: Server) -> None:
    server.client().set("other", "a string")

    async def refused(queue: AsyncQueue) -> Any:
        return await AsyncQueue("other", queue.engine).put("x")

    async def invalid(queue: AsyncQueue) -> Any:
        return await queue.put("x", id="\ud800")

    verbs = [put(0), refused, put(1), invalid, put(2)]
    answers = at_once(server.url, verbs)
    assert [type(answer).__name__ for answer in answers] == [
        "AsyncSent",
        WrongType.__name__,
        "AsyncSent",
        InvalidArgument.__name__,
        "AsyncSent",
    ]
    assert bodies(server) == Counter(range(3))


def test_full_memory_is_told_to_each_that_puts_and_to_no_other(server: Server) -> None:
    db = server.client()

    async def main() -> list[Any]:
        async with AsyncQueue("q", server.url) as queue:
            await queue.put_many(range(4))
            held = await queue.claim_many(2)
            with full_memory(db):
                verbs = [
                    queue.put("x"),
                    held[0].ack(),
                    queue.put("y"),
                    queue.claim(),
                    queue.put("z"),
                ]
                return await asyncio.gather(*verbs, return_exceptions=True)

    first, acked, second, claimed, third = asyncio.run(main())
    assert [type(error) for error in (first, second, third)] == [ServerFull] * 3
    assert first is not second
    assert (acked.value, claimed.body) == ("done", 2)


def test_one_that_is_cancelled_disturbs_no_other(proxy: Proxy, server: Server) -> None:
    async def main() -> tuple[list[Any], int]:
        async with AsyncQueue("q", proxy.url) as queue:
            await queue.put(-1)
            proxy.block()
            before = proxy.connections
            tasks = [asyncio.ensure_future(queue.put(n)) for n in range(64)]
            await asyncio.sleep(0.03)  # they are sent, and no answer can come
            tasks[7].cancel()
            await asyncio.wait(tasks[7:8])
            proxy.unblock()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            await queue.put(64)
            return answers, proxy.connections - before

    answers, opened = asyncio.run(main())
    failed = {n: type(a) for n, a in enumerate(answers) if isinstance(a, BaseException)}
    assert failed == {7: asyncio.CancelledError}
    assert opened == 0
    assert bodies(server) - Counter([7]) == Counter([n for n in range(-1, 65) if n != 7])


def test_connections_cut_under_many_that_put_lose_and_double_nothing(
    proxy: Proxy, server: Server
) -> None:
    async def main() -> None:
        async with AsyncEngine(proxy.url, retry_attempts=9) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put(["first", 0])

            async def puts(task: int) -> None:
                for n in range(20):
                    await queue.put([task, n])

            work = asyncio.gather(*map(puts, range(32)))
            while not work.done():
                await asyncio.sleep(0.02)
                proxy.cut()
            await work

    asyncio.run(main())
    wanted = [("first", 0)] + [(task, n) for task in range(32) for n in range(20)]
    assert bodies(server) == Counter(wanted)


def test_a_reply_that_is_lost_is_lost_to_each_within_its_own_patience(proxy: Proxy) -> None:
    """With none, each call that was under way says so; what comes next is answered."""

    async def main() -> list[Any]:
        async with AsyncQueue("q", proxy.url, retry_attempts=0) as queue:
            await queue.put("first")
            proxy.drop_reply()
            answers = await asyncio.gather(
                *(queue.put(n) for n in range(8)), return_exceptions=True
            )
            await queue.put("next")
            return answers

    answers = asyncio.run(main())
    assert all(isinstance(answer, ServerUnavailable) for answer in answers)
    assert len(set(map(id, answers))) == 8


@pytest.mark.parametrize("most", [None, 2])
def test_a_caller_that_takes_long_holds_up_no_other(server: Server, most: int | None) -> None:
    async def main() -> float:
        async with AsyncEngine(server.url, max_connections=most) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put("first")
            slow = asyncio.ensure_future(engine.command("BLPOP", "nothing", 20))
            blocked = server.client()
            await asyncio.to_thread(
                wait_until, "it to block", lambda: blocked.info("clients")["blocked_clients"] == 1
            )
            began = time.monotonic()
            await asyncio.gather(*(queue.put(n) for n in range(64)))
            took = time.monotonic() - began
            assert not slow.done()
            server.client().lpush("nothing", "x")
            assert await slow == [b"nothing", b"x"]
            return took

    assert asyncio.run(main()) < 10


def test_no_more_connections_than_it_may_have(proxy: Proxy, server: Server) -> None:
    async def main() -> int:
        async with AsyncEngine(proxy.url, max_connections=2) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put("first")
            proxy.delay(20)
            large = "x" * 20_000
            verbs = [queue.put(large) for _ in range(8)] + [queue.put(n) for n in range(400)]
            await asyncio.gather(*verbs, *(engine.command("PING") for _ in range(8)))
            return proxy.connections

    assert asyncio.run(main()) <= 2
    assert server.client().llen("q") == 409


def test_a_server_that_falls_silent_is_given_up_by_each(own_server: Server) -> None:
    async def main() -> float:
        options = {"socket_timeout": 0.2, "retry_budget": 0.3}
        async with AsyncQueue("q", own_server.url, **options) as queue:
            await queue.put("first")
            own_server.pause()
            began = time.monotonic()
            verbs = [queue.put(n) for n in range(8)]
            answers = await asyncio.gather(*verbs, return_exceptions=True)
            took = time.monotonic() - began
            own_server.resume()
            assert all(isinstance(answer, ServerUnavailable) for answer in answers)
            await queue.put("last")
            return took

    assert 0.2 <= asyncio.run(main()) < 3


def test_an_engine_is_closed_though_a_server_answers_no_more(own_server: Server) -> None:
    """A call that was cancelled is not waited for."""
    db = own_server.client()
    before = len(db.client_list())

    async def main() -> None:
        async with AsyncQueue("q", own_server.url) as queue:
            await queue.put("first")
            own_server.pause()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await queue.put("x")
        own_server.resume()
        closed = "it to close"
        await asyncio.to_thread(wait_until, closed, lambda: len(db.client_list()) == before, 2)

    asyncio.run(main())
