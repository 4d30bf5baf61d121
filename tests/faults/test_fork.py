"""Locks and inherited connections: a forked child hangs at nothing, and its parent notices nothing.

The same locks meet finalizers: Python may close an abandoned `consume()` at any moment, also while
the same thread holds one of them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atomq import AsyncEngine, AsyncQueue, Queue, client, connect, flows, outage, pool
from atomq.address import Address
from atomq.contrib.kombu.broker import broker_of
from tests.faults.test_processes import fork, reap
from tests.servers import Server, wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.timeout(30),  # what fails here hangs
    # What is tested here goes on in the client.
    pytest.mark.parametrize("kind", ["valkey-9"], indirect=True),
]

PLAIN = type(threading.Lock())
LOCKS = (PLAIN, type(threading.RLock()), threading.Condition, threading.Semaphore)
# No fork comes in between what `file_locks` does under its lock.
NOT_RENEWED = {("atomq.file_locks", "_no_fork")}


def objects() -> list[Any]:
    """Every object of a class of the package."""
    return [o for o in gc.get_objects() if f"{type(o).__module__}.".startswith("atomq.")]


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What tests before left in this process, with threads of its own, is not looked at.

    Garbage of theirs may take its time: a result of Celery's that is collected says so to its
    server, and tries for 20 s to reach one that is gone.
    """
    if result := sys.modules.get("celery.result"):
        monkeypatch.setattr(result.AsyncResult, "__del__", lambda _: None)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def locks() -> Iterator[tuple[Any, str, Any]]:
    """Every lock of the package: the module or object that has it, its name there, the lock.

    Places that no pool has any more are left out: a thread of the parent's may have waited for one
    when the child was forked, and the child keeps the stack of that thread.
    """
    owners = [module for name, module in sys.modules.items() if name.partition(".")[0] == "atomq"]
    found = objects()
    places = [each._places for each in found if isinstance(each, pool.Pool)]
    owners += [o for o in found if not isinstance(o, pool._Places) or o in places]
    for owner in owners:
        names = list(getattr(owner, "__dict__", ())) + list(getattr(owner, "__slots__", ()))
        for name in names:
            lock = getattr(owner, name, None)
            where = (getattr(owner, "__name__", ""), name)
            if issubclass(type(lock), LOCKS) and where not in NOT_RENEWED:
                yield owner, name, lock


def one_of_each(url: str) -> list[Any]:
    """Whatever has a lock: engines, a keeper, a Kombu broker, clusters, sentinels."""
    queue, broker = Queue("q", url, max_connections=2), broker_of(Address.parse(url))
    queue.put_many(range(20))
    message = queue.claim()
    assert message is not None
    sentinel = Address.parse("sentinel://h:1", master_name="m")
    clusters = [kind("redis+cluster://h:1") for kind in (client.Engine, AsyncEngine)]
    alone = flows.Consumer([queue.keys], queue.engine.options)
    return [queue, broker, message, connect._master(sentinel, os.getpid()), clusters, alone]


def test_a_child_is_forked_while_other_threads_hold_every_lock(own_server: Server) -> None:
    queue, broker, *others = one_of_each(own_server.url)
    held, over = threading.Event(), threading.Event()
    found = list(locks())
    assert len(found) > 8

    def hold() -> None:
        for _, _, lock in found:
            lock.acquire()
        held.set()
        over.wait()
        for _, _, lock in found:
            lock.release()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    waiting = threading.Thread(
        target=queue.put, args=("by a thread that waits for a lock",), daemon=True
    )
    waiting.start()

    def child() -> None:
        found.clear()  # with it go the objects that were replaced
        for owner, name, lock in locks():
            assert lock.acquire(blocking=False), f"{owner!r}.{name} is held for ever"
            lock.release()
        queue.put("from the child")
        with queue.claim():  # type: ignore[union-attr]
            pass
        broker.unconfirmed.add("q", {"properties": {}}, "id")
        assert broker_of(Address.parse(own_server.url)) is broker

    try:
        reap(fork(child))
    finally:
        over.set()
        thread.join()
        waiting.join()
    assert queue.state().stats["acked"] == 1
    del others
    queue.engine.close()


def test_a_child_does_not_give_back_what_its_parent_claimed_without_an_answer(
    server: Server,
) -> None:
    broker = broker_of(Address.parse(server.url))
    broker.unanswered.append(broker.claim(["q"], 1))
    try:
        reap(fork(lambda: not broker.unanswered or 1 / 0))
    finally:
        broker.unanswered.clear()


@pytest.mark.parametrize("transport", ["socket", "tcp"])
def test_the_parent_goes_on_when_a_child_drops_what_it_inherited(
    server: Server, transport: str
) -> None:
    """In asyncio both share one epoll instance."""

    async def main() -> None:
        url = server.url if transport == "socket" else server.tcp_url
        async with AsyncQueue("q", url) as queue:
            sent = await queue.put("x")
            result = asyncio.create_task(sent.wait(20))
            claim = asyncio.create_task(AsyncQueue("other", queue.engine).claim(20))
            db = server.client()
            await asyncio.to_thread(wait_until, "it to listen", db.pubsub_channels)
            await asyncio.sleep(0.05)
            theirs: list[Any] = [queue.engine]

            def child() -> None:
                theirs.clear()
                for one in gc.get_objects():
                    if issubclass(type(one), asyncio.StreamWriter):
                        one.close()
                gc.collect()
                with Queue("q", url) as sync:
                    sync.put("from the child")
                asyncio.Runner().run(queue.put("by the engine it inherited"))

            reap(fork(child))
            began = time.monotonic()
            await queue.put("y")
            message = await queue.claim()
            assert message is not None
            await message.complete("done")
            assert await result == "done"
            await AsyncQueue("other", queue.engine).put("z")
            got = await claim
            assert got is not None
            await got.ack()
            assert time.monotonic() - began < 1
            assert (await queue.state()).stats["published"] == 4

    asyncio.run(main())


def test_a_child_keeps_no_connection_of_its_parent_open(server: Server) -> None:
    """Else the server would go on with the wait of a consumer that died."""
    db = server.client()
    ready, go = os.pipe()

    def parent() -> None:
        queue = Queue("q", server.url)
        messages = threading.Thread(target=lambda: list(queue.consume()), daemon=True)
        messages.start()
        wait_until("it to wait", lambda: db_blocked() == 1)
        os.close(go)  # so that the child ends when the test does
        fork(lambda: os.read(ready, 1))
        os.kill(os.getpid(), 9)

    def db_blocked() -> int:
        count: int = db.info("clients")["blocked_clients"]
        return count

    pid = fork(parent)
    os.waitpid(pid, 0)
    wait_until("the server to notice", lambda: db_blocked() == 0, 0.5)
    os.close(go)


# ── finalizers ────────────────────────────────────────────────────────────────────────────────


def test_no_lock_that_a_finalizer_may_meet_is_a_plain_one(own_server: Server) -> None:
    kept = one_of_each(own_server.url)
    for owner, name, lock in locks():
        inner = getattr(lock, "_cond", lock)
        inner = getattr(inner, "_lock", inner)
        if not isinstance(owner, outage.Outage):  # never waited for
            assert not isinstance(inner, PLAIN), f"{owner!r}.{name}"
    del kept


@pytest.mark.parametrize("moment", ["converse", "hung_up", "probing"])
def test_an_abandoned_consumer_is_collected_at_any_moment(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Within a call of the same thread over the only connection, every lock in its hands."""
    queue = Queue("q", own_server.url, max_connections=1)
    queue.put_many(range(10))
    messages: Any = queue.consume(prefetch=5)
    next(messages).ack()
    cell: list[Any] = [messages]
    cell.append(cell)
    del messages
    place: Any = client.probing if moment == "probing" else pool
    function: Callable[..., Any] = getattr(place, moment)
    collected, me = list[int](), threading.get_ident()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != me:
            return function(*args, **kwargs)
        monkeypatch.undo()
        if moment == "probing":
            return interrupting(function(*args, **kwargs))
        collected.append(gc.collect())
        return function(*args, **kwargs)

    def interrupting(steps: Any) -> Any:
        collected.append(gc.collect())
        return (yield from steps)

    monkeypatch.setattr(place, moment, interrupted)
    if moment == "probing":
        queue.engine.verified = False
    mine = list(locks())
    for _, _, lock in mine:
        lock.acquire()
    del cell
    try:
        queue.engine.command("PING") if moment == "hung_up" else queue.put("x")
    finally:
        for _, _, lock in mine:
            lock.release()
    assert collected
    state = queue.state()
    assert (state.unacked, state.ready) == (0, 9 if moment == "hung_up" else 10)
    queue.engine.close()
