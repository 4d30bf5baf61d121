"""A cancelled task leaves nothing behind: what it held is given back, or settled, before it ends.

asyncio cancels a task once, anyio (Starlette, FastAPI) at every await of its cleanup too, and
`asyncio.run` whatever is left when the first task ends. Leases are a minute here, so whatever a
cancellation loses is still unacked when a test looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from atomq import AsyncEngine, AsyncMessage, AsyncQueue, AsyncReceiver, Queue, cancellation
from atomq.shared import AsyncShared
from tests.conftest import LONG
from tests.servers import Server, wait_until

# What is tested here goes on in the client.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

TURNS = 60 if LONG else 30  # each at a moment of its own

Verb = Callable[[AsyncQueue], Awaitable[Any]]


# ── who cancels ───────────────────────────────────────────────────────────────────────────────


async def by_timeout(work: Awaitable[Any], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def by_cancel(work: Awaitable[Any], seconds: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    await asyncio.wait({task})


async def by_cancelling_twice(work: Awaitable[Any], seconds: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    await asyncio.sleep(random.uniform(0, 0.001))
    task.cancel()
    await asyncio.wait({task})


async def by_anyio(work: Awaitable[Any], seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await work


# ── what is cancelled ─────────────────────────────────────────────────────────────────────────


async def claim(queue: AsyncQueue) -> None:
    if message := await queue.claim(timeout=5):
        await message.ack()


async def claim_at_once(queue: AsyncQueue) -> None:
    while message := await queue.claim():
        await message.complete(1)


async def claim_many(queue: AsyncQueue) -> None:
    await queue.ack_many(await queue.claim_many(5, timeout=5))


async def receive(queue: AsyncQueue) -> None:
    async with AsyncReceiver([queue]) as receiver:
        while messages := await receiver.receive(5, 5):
            try:
                await queue.give_back(messages[:2])
                await queue.ack_many(messages[2:4])
            finally:
                await receiver.return_unstarted(messages)


async def block(queue: AsyncQueue) -> None:
    while message := await queue.claim(timeout=5):
        async with message:
            await asyncio.sleep(0.001)


async def settle(queue: AsyncQueue) -> None:
    while message := await queue.claim(timeout=5):
        async with message:
            await getattr(message, random.choice(["complete", "release", "reject", "extend"]))()


async def consume(queue: AsyncQueue) -> None:
    async with aclosing(queue.consume(prefetch=8)) as messages:
        async for message in messages:
            async with message:
                await asyncio.sleep(0.001)


async def consume_one_by_one(queue: AsyncQueue) -> None:
    async with aclosing(queue.consume(prefetch=1)) as messages:
        async for message in messages:
            async with message:
                pass


async def consume_and_walk_away(queue: AsyncQueue) -> None:
    async for message in queue.consume(prefetch=8):
        async with message:
            await asyncio.sleep(0.001)


async def work(queue: AsyncQueue, concurrency: int = 1) -> None:
    async def handler(_: AsyncMessage) -> None:
        await asyncio.sleep(0.001)

    await queue.work(handler, concurrency=concurrency, prefetch=8)


async def work_at_once(queue: AsyncQueue) -> None:
    await work(queue, concurrency=4)


VERBS = [
    claim,
    claim_at_once,
    claim_many,
    receive,
    block,
    settle,
    consume,
    consume_one_by_one,
    consume_and_walk_away,
    work,
    work_at_once,
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cancelled", [by_timeout, by_cancel, by_cancelling_twice, by_anyio])
def test_a_verb_that_is_cancelled_leaves_nothing_unacked(
    server: Server, verb: Verb, cancelled: Callable[[Awaitable[Any], float], Awaitable[None]]
) -> None:
    """At any moment, while others put and consume, whose acks it may carry along."""

    async def main() -> None:
        async with AsyncQueue("q", server.url, result_ttl=5) as queue:
            over = asyncio.Event()

            async def produce() -> None:
                while not over.is_set():
                    await queue.put_many(range(5))
                    await asyncio.sleep(0.001)

            async def rival() -> None:
                async for message in queue.consume(prefetch=4, stop=over):
                    async with message:
                        await asyncio.sleep(0)

            others = [asyncio.create_task(produce()), asyncio.create_task(rival())]
            for _ in range(TURNS):
                await cancelled(verb(queue), random.uniform(0, 0.008))
            over.set()
            await asyncio.gather(*others)

            unacked = server.client(decode_responses=True).zcard
            await asyncio.to_thread(
                wait_until, "all to be given back", lambda: not unacked("_atomq.{q}.unacked"), 1
            )
            state = await queue.state()
            stats = state.stats
            left = state.ready + state.delayed + state.dead
            assert stats["published"] == stats["acked"] + left

    asyncio.run(main())


@pytest.mark.parametrize("verb", [claim, claim_many, consume, work, work_at_once])
@pytest.mark.parametrize("cancelled", [by_cancel, by_anyio])
def test_a_verb_that_is_cancelled_at_what_goes_alone_or_dies_loses_nothing(
    server: Server, verb: Verb, cancelled: Callable[[Awaitable[Any], float], Awaitable[None]]
) -> None:
    """Whatever a claim answers: some have ended often, in company or alone."""
    db, written = server.client(), 0

    async def main() -> None:
        nonlocal written
        async with AsyncQueue("q", server.url, max_deliveries=3) as queue:
            for turn in range(TURNS):
                await queue.put_many(range(3))
                for deliveries in range(2, 7):
                    head = f'{{"x-deliveries":{deliveries},"x-spared":{turn % 4},"body":""}}'
                    written += db.lpush("q", head) > 0
                verbs = [cancelled(verb(queue), random.uniform(0, 0.01)) for _ in range(2)]
                await asyncio.gather(*verbs)
            state = await queue.state()
            for _ in range(100):  # a moment: the thread of the leases may be giving back
                while message := await queue.claim(timeout=0.01):
                    await message.ack()
                state = await queue.state()
                if not state.ready + state.unacked:
                    break
            assert (state.ready, state.unacked, state.delayed) == (0, 0, 0)
            assert state.stats["acked"] + state.dead == state.stats["published"] + written

    asyncio.run(main())


def test_what_gives_back_is_not_cancelled_by_the_end_of_the_loop(server: Server) -> None:
    """At whatever step: also while redis-py writes, which it may do in a task of its own."""

    async def main(steps: int) -> None:
        queue = AsyncQueue("q", server.url)
        await queue.put_many(range(10))
        begun = asyncio.Event()

        async def handler(_: AsyncMessage) -> None:
            begun.set()
            await asyncio.sleep(60)

        task = asyncio.create_task(queue.work(handler, prefetch=5))
        await begun.wait()
        task.cancel()
        for _ in range(steps):
            await asyncio.sleep(0)  # it gives back now, and the loop ends

    with Queue("q", server.url) as queue:
        for steps in range(12):
            server.client().script_flush()  # so that a large text is to be written
            asyncio.run(main(steps))
            assert (queue.state().ready, queue.state().unacked) == (10, 0), f"{steps} steps"
            queue.purge()


# A generator that is not closed by its consumer is closed by the loop, which may end before that.
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb is not consume_and_walk_away])
def test_a_verb_that_the_end_of_the_loop_cancels_leaves_nothing_unacked(
    server: Server, verb: Verb
) -> None:
    async def main() -> None:
        queue = AsyncQueue("q", server.url, result_ttl=5)
        await queue.put_many(range(3))
        verbs = [asyncio.create_task(verb(queue)) for _ in range(2)]
        await asyncio.sleep(random.uniform(0, 0.008))
        for task in verbs[: random.randint(0, 2)]:
            task.cancel()
        for _ in range(random.randint(0, 12)):
            await asyncio.sleep(0)

    unacked = server.client().zcard
    for _ in range(TURNS // 3):
        asyncio.run(main())
        wait_until("all to be given back", lambda: not unacked("_atomq.{q}.unacked"), 1)


def test_a_server_that_does_not_answer_holds_up_a_cancelled_task_for_a_while_only(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "PROMPT", 0.3)

    async def main() -> None:
        async with AsyncEngine(own_server.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(3))
            message = await queue.claim()
            begun = asyncio.Event()

            async def handler(_: AsyncMessage) -> None:
                begun.set()
                await asyncio.sleep(60)

            working = asyncio.create_task(queue.work(handler))
            await begun.wait()
            own_server.pause()
            acking = asyncio.create_task(message.ack())  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            for task in (working, acking):
                task.cancel()
            await asyncio.wait({working, acking}, timeout=20)
            own_server.resume()
            assert (working.cancelled(), acking.cancelled()) == (True, True)
            assert time.monotonic() - began < 2.5

    asyncio.run(main())


def test_a_cancelled_verb_tells_the_message_what_became_of_it(own_server: Server) -> None:
    async def main() -> None:
        async with AsyncEngine(own_server.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put("x")
            message = await queue.claim()
            assert message is not None
            own_server.pause()
            task = asyncio.create_task(message.complete(1))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()
            own_server.resume()
            await asyncio.wait({task}, timeout=5)
            assert task.cancelled()
            assert (message.settled, message.lost) == (True, False)
            assert not queue.keeper.holds(message.receipt)
            assert (await queue.state()).unacked == 0

    asyncio.run(main())


def test_a_cancelled_wait_for_a_result_listens_no_more_with_anyio(server: Server) -> None:
    async def main() -> None:
        async with AsyncQueue("q", server.url) as queue:
            sent = await queue.put("x")
            with anyio.move_on_after(0.05):
                await sent.wait()
            db = server.client()
            await asyncio.to_thread(wait_until, "it", lambda: not db.pubsub_channels(), 2)

    asyncio.run(main())


def test_what_the_end_of_the_loop_ended_is_asked_again_by_what_goes_on(kind: str) -> None:
    asked: list[int] = []
    got: list[int] = []

    async def main() -> None:
        shared, asking = AsyncShared[int](), asyncio.Event()

        async def ask() -> int:
            asked.append(1)
            asking.set()
            await asyncio.sleep(0.01)
            return 5

        async def give_back() -> None:
            got.append(await shared(ask))

        giving = asyncio.create_task(cancellation.to_the_end(give_back()))
        await asking.wait()
        assert not giving.done()

    asyncio.run(main())
    assert (len(asked), got) == (2, [5])
