"""Alive means held (promise 3): a lease is kept as long as its holder lives, and no longer."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection, Consumer
from kombu import Queue as KombuQueue

from atomq import AsyncQueue, Engine, LeaseLost, Queue, calls, workers
from atomq.address import Address
from atomq.contrib.kombu.broker import broker_of
from tests.proxy import Proxy
from tests.servers import Server, wait_until
from tests.threads import running

# What is tested here goes on in the client.
pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)

LEASE = 0.4  # seconds; renewed every third of it


@contextmanager
def rival(server: Server, **options: Any) -> Iterator[list[Any]]:
    """Another consumer that takes whatever it can get; what it got."""
    got: list[Any] = []
    queue = Queue("q", server.url, lease=LEASE, **options)
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            for message in queue.claim_many(10, timeout=0.1):
                got.append(message)
                message.ack()

    try:
        with running(take, stop=stop):
            yield got
    finally:
        queue.engine.close()


def take_away(queue: Queue, receipt: str) -> None:
    """Let somebody else have the message of this receipt."""
    queue.engine.run(calls.extend(queue.keys, [receipt], lease_ms=0))
    with Engine(queue.engine.address) as other:
        assert Queue("q", other).claim(timeout=2) is not None


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("patience", [5, None])
def test_a_connection_that_fell_silent_costs_no_lease(
    server: Server, patience: float | None
) -> None:
    with (
        Proxy(server.socket) as proxy,
        Engine(proxy.url, lease=3, socket_timeout=patience) as engine,
    ):
        queue = Queue("q", engine)
        queue.put("x")
        message, renewal = queue.claim(), queue.keeper._renewal
        renewal.renew()
        proxy.silence()
        began = time.monotonic()
        wait_until("it is renewed", lambda: renewal.renew() == 1.0, seconds=10)
        assert time.monotonic() - began < 2
        assert message is not None
        assert not message.lost


def test_a_task_longer_than_its_lease_runs_once(server: Server) -> None:
    queue = Queue("q", server.url, lease=LEASE)
    queue.put_many(["asleep in C", "busy in Python", "asyncio, its loop blocked"])
    claimed = threading.Barrier(4)

    def work(how: Callable[[float], None]) -> None:
        with queue.claim() as message:  # type: ignore[union-attr]
            claimed.wait()
            how(3 * LEASE)
            assert message.deliveries == 1

    async def blocked() -> None:
        aqueue = AsyncQueue("q", server.url, lease=LEASE)
        async with aqueue.engine, await aqueue.claim():  # type: ignore[union-attr]
            claimed.wait()
            time.sleep(3 * LEASE)  # noqa: ASYNC251 - a task that blocks its loop

    with ThreadPoolExecutor() as pool:
        works = [pool.submit(work, time.sleep), pool.submit(work, busy)]
        works.append(pool.submit(lambda: asyncio.run(blocked())))
        claimed.wait()
        with rival(server) as stolen:
            for each in works:
                each.result()
            assert stolen == []
    assert queue.state().stats["acked"] == 3
    queue.engine.close()


def test_a_message_whose_holder_is_garbage_is_not_renewed(server: Server) -> None:
    queue = Queue("q", server.url, lease=LEASE)
    queue.put("x")
    message = queue.claim()
    assert message is not None
    began = time.monotonic()
    with rival(server) as got:
        time.sleep(1.5 * LEASE)
        assert got == []
        del message
        gc.collect()
        wait_until("somebody else to get it", lambda: got, 3)
    assert got[0].deliveries == 2
    assert time.monotonic() - began < 1.5 * LEASE + LEASE + 1.2
    queue.engine.close()


def test_max_lease_counts_from_the_start_of_the_work(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def standstill() -> float:
        """The longest time between two renewals; 0 if the message was lost before its time."""
        queue, turns = Queue("q", server.url, lease=LEASE, max_lease=2 * LEASE), list[float]()
        extend = queue.keeper._renewal._extend
        monkeypatch.setattr(
            queue.keeper._renewal,
            "_extend",
            lambda held: (turns.append(time.monotonic()), extend(held))[1],
        )
        queue.put_many(["first", "second"])
        first, second = queue.claim_many(2)  # both are claimed before anybody else may
        turns.append(time.monotonic())
        with queue, rival(server, max_lease=2 * LEASE) as got:
            with first:
                time.sleep(1.5 * LEASE)
            began = time.monotonic()
            with second:  # claimed long ago, begun now
                wait_until("the hung task to lose it", lambda: got, 4)
                lasted = time.monotonic() - began
                with pytest.raises(LeaseLost):
                    second.ack()
            turns.append(min(time.monotonic(), began + 2 * LEASE))
        in_time = lasted >= 2 * LEASE and [message.body for message in got] == ["second"]
        return 0.0 if in_time else max(b - a for a, b in itertools.pairwise(sorted(turns)))

    # On a machine that stands still for half a lease it is lost early, and nothing is learned.
    for _ in range(5):
        if (stood := standstill()) < LEASE / 2:
            break
    assert stood == 0.0


def test_a_lost_lease_is_told_and_what_waits_for_its_turn_is_not_handed_over(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue("q", server.url, lease=LEASE)
    queue.put_many([0, 1, 2, 3])
    messages = queue.consume()
    next(messages).ack()  # one message first, then two at once
    first = next(messages)
    _, second = sorted(p.name for p in queue.peek("unacked"))
    with caplog.at_level(logging.WARNING, "atomq.leases"):
        take_away(queue, second)
        wait_until("the loss to be noticed", lambda: second in caplog.text, 3)
    first.ack()
    third = next(messages)
    assert third.body == 3
    with caplog.at_level(logging.WARNING, "atomq.leases"):
        take_away(queue, third.receipt)
        wait_until("the loss to be noticed", lambda: third.lost, 3)
    with pytest.raises(LeaseLost):
        third.complete("too late")
    messages.close()
    queue.engine.close()


STOPPED = """
import asyncio, sys, time
from atomq import AsyncQueue, Queue

url, kind, lease = sys.argv[1:]
begun = Queue("begun", url)

def work(message):
    begun.put(message.body)
    return 0.3 * (message.body == 3)  # seconds; four are claimed at once here

async def handler(message):
    await asyncio.sleep(work(message))

if kind == "sync":
    queue = Queue("q", url, lease=float(lease))
    queue.work(lambda message: time.sleep(work(message)), timeout=1)
else:
    asyncio.run(AsyncQueue("q", url, lease=float(lease)).work(handler, timeout=1))
"""


@pytest.mark.parametrize("worker", ["sync", "asyncio"])
def test_what_waited_through_a_freeze_longer_than_its_lease_is_not_begun(
    server: Server, worker: str
) -> None:
    queue, begun = Queue("q", server.url, lease=LEASE), Queue("begun", server.url)
    queue.put_many(range(8))
    others: list[Any] = []

    def all_are_claimed() -> bool:
        others.extend(queue.claim_many(9))
        return len(others) == 5

    command = [sys.executable, "-c", STOPPED, server.url, worker, str(LEASE)]
    with subprocess.Popen(command) as frozen:
        wait_until("the long one to begin", lambda: begun.state().ready == 4)
        os.kill(frozen.pid, signal.SIGSTOP)
        wait_until("its leases to end", all_are_claimed)
        queue.ack_many(others)
        os.kill(frozen.pid, signal.SIGCONT)
        assert frozen.wait(20) == 0
    assert sorted(message.body for message in others) == [3, 4, 5, 6, 7]
    assert [message.body for message in begun.claim_many(20)] == [0, 1, 2, 3]
    queue.engine.close()
    begun.engine.close()


@pytest.mark.parametrize("worker", ["sync", "asyncio"])
def test_what_was_claimed_for_a_consumer_that_is_frozen_is_not_begun(
    server: Server, worker: str
) -> None:
    """It waits in the server, with a claim behind: the answer reaches it after the lease."""
    queue, begun = Queue("q", server.url, lease=LEASE), Queue("begun", server.url)
    queue.put(0)
    command = [sys.executable, "-c", STOPPED, server.url, worker, str(LEASE)]
    with subprocess.Popen(command) as frozen:
        wait_until("it to wait for more", lambda: queue.state().stats.get("acked") == 1)
        os.kill(frozen.pid, signal.SIGSTOP)
        queue.put(1)
        with rival(server) as got:
            wait_until("another to get it", lambda: got)
            os.kill(frozen.pid, signal.SIGCONT)
            assert frozen.wait(20) == 0
    assert [message.body for message in got] == [1]
    assert [message.body for message in begun.claim_many(20)] == [0]
    queue.engine.close()
    begun.engine.close()


def test_what_a_worker_was_handed_before_a_freeze_is_not_begun(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is suspended between the hand-over and the first step of a thread, or task."""

    def frozen(kind: Any, queue: Any) -> None:
        begin = kind.begin
        seen: list[Any] = []

        def late(self: Any, message: Any) -> None:
            if not seen:
                queue.keeper._leases[message.receipt].since -= 3600
            seen.append(message.receipt)
            begin(self, message)

        monkeypatch.setattr(kind, "begin", late)

    got: list[int] = []
    with Queue("q", server.url) as queue:
        frozen(workers.Threads, queue)
        queue.put("sync")
        queue.work(lambda m: got.append(m.deliveries), concurrency=2, timeout=0.3)
        assert (got, queue.state().stats["released"]) == ([1], 1)

    async def main() -> None:
        async with AsyncQueue("r", server.url) as queue:
            frozen(workers.Tasks, queue)
            await queue.put("asyncio")

            async def handler(message: Any) -> None:
                got.append(message.deliveries)

            await queue.work(handler, concurrency=2, timeout=0.3)
            assert (await queue.state()).stats["released"] == 1

    asyncio.run(main())
    assert got == [1, 1]


def test_what_no_thread_could_be_started_for_is_given_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Queue("q", server.url) as queue:
        queue.put("x")
        monkeypatch.setattr(
            workers, "Thread", type("Thread", (threading.Thread,), {"start": start})
        )
        with pytest.raises(RuntimeError, match="new thread"):
            queue.work(print, concurrency=2, timeout=0)
        state = queue.state()
        assert (state.ready, state.unacked) == (1, 0)


@pytest.mark.parametrize("worker", ["sync", "asyncio"])
def test_claims_that_are_answered_after_their_lease_end_in_time(
    server: Server, worker: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are given back, uncounted, as after a freeze; but it would be so for ever."""

    async def claim(url: str, seconds: float) -> Any:
        async with AsyncQueue("q", url, lease=0.005) as queue:
            return await queue.claim(timeout=seconds)

    queue = Queue("q", server.url)
    queue.put("x")
    with Proxy(server.socket) as proxy:
        far = Queue("q", proxy.url, lease=0.005)
        proxy.delay(20)
        for timeout in (0, 0.3):
            began = time.monotonic()
            if worker == "sync":
                assert far.claim(timeout=timeout) is None
            else:
                assert asyncio.run(claim(proxy.url, timeout)) is None
            assert time.monotonic() - began < 2
        far.engine.close()
    assert "later than their lease of 5 ms" in caplog.text
    message = queue.claim(timeout=2)
    assert message is not None
    assert message.deliveries == 1
    queue.engine.close()


@pytest.mark.parametrize("worker", ["sync", "asyncio"])
def test_of_one_by_one_what_is_answered_after_its_lease_is_not_begun(
    server: Server, worker: str
) -> None:
    """The claim that took the ack of the message before along; its consumer claims again."""
    queue, got = Queue("q", server.url), list[tuple[int, int]]()
    queue.put_many([0, 1])
    with Proxy(server.socket) as proxy:

        def work(message: Any) -> None:
            got.append((message.body, message.deliveries))
            if message.body == 0:
                proxy.delay(700)
                threading.Timer(0.75, proxy.delay, (0,)).start()

        async def by_asyncio() -> None:
            async with AsyncQueue("q", proxy.url, lease=0.5) as messages:
                async for message in messages.consume(prefetch=1, timeout=1):
                    async with message:
                        work(message)

        if worker == "asyncio":
            asyncio.run(by_asyncio())
        else:
            with Queue("q", proxy.url, lease=0.5) as messages:
                for message in messages.consume(prefetch=1, timeout=1):
                    with message:
                        work(message)
    assert got == [(0, 1), (1, 1)]
    stats = queue.state().stats
    assert (stats["released"], stats["acked"]) == (1, 2)
    queue.engine.close()


def test_a_block_that_ends_too_late_says_so(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue("q", server.url)
    queue.put_many([1, 2])
    with queue.claim() as message:  # type: ignore[union-attr]
        take_away(queue, message.receipt)
    assert message.lost
    assert message.receipt in caplog.text
    for riding in queue.consume(timeout=0):
        with riding:
            take_away(queue, riding.receipt)
    assert f"{riding.receipt} was acked too late" in caplog.text
    queue.engine.close()


def test_one_queue_in_trouble_does_not_cost_another_its_leases(server: Server) -> None:
    engine = Queue("bad", server.url, lease=LEASE).engine
    bad, good = Queue("bad", engine), Queue("q", engine)
    bad.put("x")
    good.put("y")
    messages = [bad.claim(), good.claim()]
    db = server.client()
    db.rename("_atomq.{bad}.unacked", "aside")
    db.set("_atomq.{bad}.unacked", "of another type")
    with rival(server) as stolen:
        time.sleep(3 * LEASE)
        assert stolen == []
    assert len(messages) == 2
    engine.close()


def test_a_renewal_that_failed_is_tried_again_well_before_the_lease_ends(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue("q", server.url, lease=3)  # renewed once a second
    queue.put("x")
    message = queue.claim()
    assert message is not None
    db = server.client()
    db.rename("_atomq.{q}.unacked", "aside")
    db.set("_atomq.{q}.unacked", "of another type")
    with caplog.at_level(logging.INFO, "atomq.leases"):
        wait_until("the trouble", lambda: "not renewed yet" in caplog.text, 3)
        db.rename("aside", "_atomq.{q}.unacked")
        began = time.monotonic()
        wait_until("its end", lambda: "well again" in caplog.text, 3)
    assert time.monotonic() - began < 0.7
    message.ack()
    queue.engine.close()


def test_whatever_goes_wrong_in_a_renewal_others_follow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue("q", server.url, lease=LEASE)
    queue.put("x")
    renewal = queue.keeper._renewal
    renew, tried = renewal.renew, []

    def broken_once() -> float:
        tried.append(1)
        return renew() if len(tried) > 1 else 1 / 0

    monkeypatch.setattr(renewal, "renew", broken_once)
    message = queue.claim()
    assert message is not None
    wait_until("the next renewal", lambda: len(tried) > 2, 3)
    message.ack()
    queue.engine.close()


def test_an_engine_that_was_closed_can_be_used_again(server: Server) -> None:
    queue = Queue("q", server.url, lease=LEASE)
    queue.put_many([1, 2])
    with queue.claim():  # type: ignore[union-attr]
        pass
    queue.engine.close()
    message = queue.claim()
    with rival(server) as stolen:
        time.sleep(3 * LEASE)
        assert stolen == []
    assert message is not None
    message.ack()
    queue.engine.close()


def test_an_ack_that_waits_for_a_claim_is_sent_when_the_engine_is_closed(server: Server) -> None:
    queue = Queue("q", server.url)
    queue.put("x")
    message = queue.claim()
    assert message is not None
    queue.keeper.ack_later(queue.keys, message.receipt)
    queue.engine.close()
    assert server.client().hget("_atomq.{q}.stats", "acked") == b"1"


@pytest.mark.parametrize("worker", ["kombu", "asyncio"])
def test_an_ack_whose_claim_has_no_answer_arrives_while_its_loop_stands_still(
    server: Server, worker: str
) -> None:
    """The claim that took it along is lost, and the loop that would notice works for longer."""
    queue = Queue("q", server.url)
    queue.put_many(["acked", "next"])

    def stands_still() -> list[Any]:
        with rival(server) as got:
            wait_until("both to be acked", lambda: queue.state().stats.get("acked") == 2)
        return [message.body for message in got]

    def by_kombu(proxy: Proxy) -> list[Any]:
        url, got = proxy.url.replace("redis+socket", "atomq+socket"), []
        with Connection(url, transport_options={"lease": LEASE}) as connection:
            channel = connection.channel()
            with Consumer(channel, [KombuQueue("q")], on_message=got.append):
                connection.drain_events(timeout=5)
                proxy.drop_request(matching=got[0].delivery_tag.encode())
                keeper = channel.broker.keeper
                with keeper.lock:  # else its thread may send it first
                    got[0].ack()
                    connection.transport.poller.pump()
                assert keeper.acks.under_way("q")
                return stands_still()

    async def by_asyncio(proxy: Proxy) -> list[Any]:
        async def others() -> list[Any]:
            for _ in range(1_000_000):
                if messages.keeper.acks.under_way("q"):
                    return stands_still()
                await asyncio.sleep(0)
            raise AssertionError("no claim took the ack along")

        async with AsyncQueue("q", proxy.url, lease=LEASE) as messages:
            blocking = asyncio.create_task(others())
            async for message in messages.consume(prefetch=1, timeout=0):
                async with message:
                    if message.body == "acked":
                        proxy.drop_request(matching=message.receipt.encode())
            return await blocking

    with Proxy(server.socket) as proxy:
        taken = by_kombu(proxy) if worker == "kombu" else asyncio.run(by_asyncio(proxy))
        assert proxy.dropped == 1
    assert taken == ["next"]
    queue.engine.close()


def test_settled_messages_leave_nothing_behind(server: Server) -> None:
    queue = Queue("q", server.url)
    queue.put_many(range(60))
    for n, message in enumerate(queue.consume(timeout=0, prefetch=16)):
        match n % 5:
            case 0:
                message.ack()
            case 1:
                message.complete()
            case 2:
                message.reject()
            case 3:
                message.release(delay=60)
            case _:
                with message:
                    pass
    assert queue.keeper._leases == {}
    assert queue.state().unacked == 0
    queue.engine.close()


def test_only_a_process_that_holds_something_looks_for_garbage_when_it_connects(
    own_server: Server,
) -> None:
    """With broker_pool_limit=None each publish connects, and a collection costs the whole heap.

    A worker connects a second time for its remote control, which is deaf until then.
    """
    importlib.import_module("celery.worker.request")  # as in a worker, whose requests are looked at
    broker, queue = broker_of(Address.parse(own_server.url)), Queue("q", own_server.url)
    queue.put("x")
    collected: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collected.append(info["generation"])

    gc.disable()
    gc.callbacks.append(note)
    try:
        assert broker.reap() == 0
        assert collected == []
        claimed = broker.engine.run(broker.claim(["q"], 1))
        broker.keeper.hold(claimed, claimed.deliveries)
        del claimed
        assert broker.reap() == 1
        assert collected == [2]
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert queue.state().ready == 1
    broker.keeper.close()
    queue.engine.close()
