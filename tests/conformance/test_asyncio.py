"""What only asyncio asks for: many tasks on few connections, cancellation, several loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncMessage, AsyncQueue, Engine, Queue
from tests.servers import Server, wait_until

# What is tested here goes on in the client.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


def connections(server: Server) -> int:
    count: int = server.client().info("clients")["connected_clients"]
    return count


async def until(test: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, "it to be so", test, 10)


def test_200_that_wait_for_results_share_one_subscription(server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url, max_connections=8) as engine:
            queue = AsyncQueue("q", engine)
            before = connections(server)
            sent = await queue.put_many(range(200))
            waits = [asyncio.create_task(one.wait(20)) for one in sent]
            db = server.client()
            await until(lambda: len(db.pubsub_channels()) == 200)
            assert connections(server) - before <= 12
            assert len(db.client_list(_type="pubsub")) == 1
            twice = asyncio.create_task(sent[0].wait(20))
            while messages := await queue.claim_many(50):
                for message in messages:
                    if message.body % 2:
                        await message.complete(message.body)
                    else:
                        await message.reject("even")
            answers = await asyncio.gather(*waits, return_exceptions=True)
            assert [a for a in answers if isinstance(a, int)] == list(range(1, 200, 2))
            assert sum(str(a) == "even" for a in answers) == 100
            with pytest.raises(Exception, match="even"):
                await twice
            await until(lambda: not db.pubsub_channels())

    asyncio.run(main())


def test_as_many_connections_as_are_needed_and_no_more(server: Server) -> None:
    """All that wait in the server have one each; 3,000 short calls share what they find."""

    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            db = server.client()
            takes = [asyncio.create_task(engine.command("BLPOP", "list", 30)) for _ in range(100)]
            await until(lambda: db.info("clients")["blocked_clients"] == 100)
            db.rpush("list", *range(100))
            assert len(await asyncio.gather(*takes)) == 100
        async with AsyncEngine(server.url) as engine:
            before = connections(server)
            await asyncio.gather(*(engine.command("TIME") for _ in range(3_000)))
            assert connections(server) - before < 1_000

    asyncio.run(main())


def test_a_cancelled_wait_for_a_result_listens_no_more(server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue, db = AsyncQueue("q", engine), server.client()
            one, two = await queue.put_many([1, 2])
            first, second = (asyncio.create_task(sent.wait()) for sent in (one, two))
            await until(lambda: len(db.pubsub_channels()) == 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await until(lambda: len(db.pubsub_channels()) == 1)
            for message in await queue.claim_many(2):
                await message.complete(message.body)
            assert await asyncio.wait_for(second, 5) == 2
            assert await one.wait(0) == 1

    asyncio.run(main())


def test_a_consumer_can_be_cancelled_at_any_moment(server: Server) -> None:
    """It ends at once, and what it had claimed and not begun can be claimed again at once."""

    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(2000))
            done: list[int] = []

            async def consume() -> None:
                async for message in queue.consume(prefetch=5):
                    async with message:
                        done.append(message.body)
                        await asyncio.sleep(0)

            for n in range(40):
                task = asyncio.create_task(consume())
                await asyncio.sleep(0.0007 * n)
                task.cancel()
                began = time.monotonic()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - began < 1
                del task
            async for message in queue.consume(timeout=0.5):
                async with message:
                    done.append(message.body)
            assert set(done) == set(range(2000))
            state = await queue.state()
            assert (state.ready, state.unacked, state.delayed) == (0, 0, 0)

    asyncio.run(main())


def test_work_that_is_cancelled_gives_all_back_before_it_ends(server: Server) -> None:
    """Whoever still holds the task, and with it the traceback and the frames."""

    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(10))
            begun = asyncio.Event()

            async def handler(message: AsyncMessage) -> None:
                begun.set()
                await asyncio.sleep(60)

            task = asyncio.create_task(queue.work(handler, prefetch=4))
            await asyncio.wait_for(begun.wait(), 10)
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            assert task.cancelled()
            state = await queue.state()
            assert (state.ready, state.unacked) == (10, 0)
            messages = await queue.claim_many(10)
            assert {m.body: m.deliveries for m in messages} == {0: 2} | dict.fromkeys(
                range(1, 10), 1
            )

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 5, 40])
def test_tasks_that_are_cancelled_give_all_back_begun_or_not(server: Server, turns: int) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(10))
            begun = asyncio.Event()

            async def handler(message: AsyncMessage) -> None:
                begun.set()
                await asyncio.sleep(60)

            task = asyncio.create_task(queue.work(handler, concurrency=4))
            await asyncio.wait_for(begun.wait(), 10)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            assert task.cancelled()
            state = await queue.state()
            assert (state.ready, state.unacked) == (10, 0)

    asyncio.run(main())


def test_work_ends_when_an_event_of_asyncio_is_set(server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue, stop = AsyncQueue("q", engine), asyncio.Event()

            async def handler(message: AsyncMessage) -> None:
                asyncio.get_running_loop().call_later(0.2, stop.set)

            await queue.put("x")
            assert await asyncio.wait_for(queue.work(handler, stop=stop), 5) == 1

    asyncio.run(main())


def test_an_idle_consumer_can_be_cancelled(server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url) as engine:
            queue = AsyncQueue("q", engine)
            for n in range(30):
                task = asyncio.create_task(queue.claim(timeout=None))
                await asyncio.sleep(0.0005 * n)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await queue.put("x")
            message = await queue.claim(timeout=5)
            assert message is not None
            await message.ack()

    asyncio.run(main())


def test_an_engine_outlives_its_loop(server: Server) -> None:
    engine = AsyncEngine(server.url)
    queue = AsyncQueue("q", engine)

    async def once(n: int) -> Any:
        sent = await queue.put(n)
        message = await queue.claim(timeout=1)
        assert message is not None
        wait = asyncio.create_task(sent.wait(5))
        await message.complete(n)
        return await wait

    assert [asyncio.run(once(n)) for n in range(3)] == [0, 1, 2]
    asyncio.run(engine.close())


def test_a_loop_that_stopped_before_it_sent_what_it_gathered_holds_up_no_other(
    server: Server,
) -> None:
    """What is put while another put is under way goes at the end of a turn: of the same loop."""
    queue = AsyncQueue("q", server.url)
    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(queue.put("first"))
    puts = [stopped.create_task(queue.put(n)) for n in range(2)]
    stopped.call_soon(stopped.stop)
    stopped.run_forever()  # one turn: one is under way, the other would be sent in the next

    async def main() -> None:
        async with asyncio.timeout(5):
            await queue.put("next")
        await queue.engine.close()

    asyncio.run(main())
    for put in puts:
        put.cancel()
    stopped.run_until_complete(asyncio.gather(*puts, return_exceptions=True))
    stopped.close()


def test_many_tasks_on_few_connections(server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(server.url, max_connections=4) as engine:
            queue = AsyncQueue("q", engine)
            await asyncio.gather(*(queue.put(n) for n in range(300)))
            assert connections(server) < 10
            got = await asyncio.gather(*(queue.claim() for _ in range(300)))
            assert sorted(m.body for m in got if m is not None) == list(range(300))
            await asyncio.gather(*(m.ack() for m in got if m is not None))

    asyncio.run(main())
    with Engine(server.url) as engine:
        assert Queue("q", engine).state().stats["acked"] == 300
