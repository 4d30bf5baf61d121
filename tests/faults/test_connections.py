"""Connections that break at any point, and servers that go away and come back.

Nothing is lost, nothing is done twice while its holder lives, and nobody has to be restarted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import pytest
import redis
from kombu import Connection

from atomq import (
    AsyncEngine,
    AsyncQueue,
    AsyncReceiver,
    Engine,
    Item,
    MessageFailed,
    Queue,
    Receiver,
    ScriptsNotLoaded,
    ServerUnavailable,
    Verdict,
    cancellation,
    flows,
    pool,
    pool_aio,
    scripts,
)
from tests.lua.rig import greedy_claim
from tests.proxy import Proxy
from tests.servers import Server, full_memory, wait_until
from tests.threads import running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


@contextmanager
def again_and_again(what: Callable[[], Any], seconds: float) -> Iterator[Counter[str]]:
    """Do something every few milliseconds meanwhile."""
    stop, done = threading.Event(), Counter[str]()

    def run() -> None:
        while not stop.wait(seconds):
            what()
            done["times"] += 1

    with running(run, stop=stop):
        yield done


def killing(server: Server) -> Callable[[], Any]:
    db = server.client()
    return lambda: db.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


# ── how many, and for how long ───────────────────────────────────────────────────────────────


def test_an_engine_opens_no_more_connections_than_it_may(server: Server) -> None:
    clients: set[int] = set()
    with Engine(server.url, max_connections=2) as engine:
        threads = [
            threading.Thread(target=lambda: clients.add(engine.command("CLIENT ID")))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= len(clients) <= 2


@pytest.mark.parametrize(("interval", "same"), [(0.1, False), (60, True), (0, True)])
def test_a_connection_that_idled_for_long_is_not_trusted(
    server: Server, interval: float, same: bool
) -> None:
    with Engine(server.url, health_check_interval=interval) as engine:
        before = engine.command("CLIENT ID")
        time.sleep(0.2)
        assert (engine.command("CLIENT ID") == before) is same

    async def main() -> None:
        async with AsyncEngine(server.url, health_check_interval=interval) as engine:
            before = await engine.command("CLIENT ID")
            await asyncio.sleep(0.2)
            assert (await engine.command("CLIENT ID") == before) is same

    asyncio.run(main())


# ── CLIENT KILL ───────────────────────────────────────────────────────────────────────────────


def test_connections_killed_under_a_consumer(server: Server) -> None:
    queue = Queue("q", server.url, retry_attempts=9)
    got: Counter[int] = Counter()
    with again_and_again(killing(server), 0.005) as killed:
        for n in range(0, 300, 10):
            queue.put_many(range(n, n + 10))
        for message in queue.consume(prefetch=7, timeout=0.3):
            with message:
                got[message.body] += 1
                if message.body % 50 == 0:
                    time.sleep(0.01)
    assert killed["times"] > 5
    assert got == Counter(range(300))
    wait_until("the acks to arrive", lambda: queue.state().unacked == 0)
    assert queue.state().stats["acked"] == 300
    queue.engine.close()


def test_connections_killed_under_asyncio_consumers(server: Server) -> None:
    got: Counter[int] = Counter()

    async def consume(queue: AsyncQueue) -> None:
        async for message in queue.consume(prefetch=3, timeout=0.4):
            async with message:
                got[message.body] += 1
                await asyncio.sleep(0.001)

    async def main() -> None:
        async with AsyncEngine(server.url, retry_attempts=9) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(200))
            await asyncio.gather(*(consume(queue) for _ in range(4)))

    with again_and_again(killing(server), 0.01):
        asyncio.run(main())
    assert got == Counter(range(200))
    assert Queue("q", server.url).state().unacked == 0


def test_waits_for_results_outlive_their_connections(server: Server) -> None:
    def kill() -> None:
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    admin = server.client()
    queue = Queue("q", server.url)
    sent = queue.put_many(range(4))

    async def wait_async(message_id: str) -> Any:
        async with AsyncEngine(server.url) as engine:
            return await AsyncQueue("q", engine).wait(message_id, 10)

    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda one=one: answers.append(one.wait(10))) for one in sent[:2]
    ]
    threads += [
        threading.Thread(target=lambda one=one: answers.append(asyncio.run(wait_async(one.id))))
        for one in sent[2:]
    ]
    for thread in threads:
        thread.start()
    wait_until("all to listen", lambda: len(admin.pubsub_channels()) == 4)
    for _ in range(3):
        kill()
        time.sleep(0.02)
    messages = queue.claim_many(4)
    began = time.monotonic()
    for message in messages:
        message.complete(message.body)
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 1, 2, 3]
    assert time.monotonic() - began < 4, "before the look that every waiter takes after 5 s"
    queue.engine.close()


# ── lost replies ──────────────────────────────────────────────────────────────────────────────


def test_a_lost_reply_of_any_verb_is_harmless(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url)

    def lossy(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        queue.state()  # past the probe that follows a broken connection
        dropped = proxy.dropped
        proxy.drop_reply()
        answer = call(*args, **more)
        assert proxy.dropped == dropped + 1
        return answer

    Queue("warm", proxy.url).engine.nodes()[0].load()
    lossy(queue.put_many, [1, 2, 3, 4, 5, 6])
    assert queue.state().ready == 6
    other = Queue("other", proxy.url)
    other.put("once", id="once")
    assert not lossy(other.put, "again", id="once").new
    put = lossy(other.put_many, [Item("a", id="once"), Item("b", id="twice")])
    assert [each.new for each in put] == [False, True]
    [one] = lossy(queue.claim_many, 1)
    two, three, four, five = queue.claim_many(4)
    assert (one.body, one.deliveries, five.body, queue.state().unacked) == (1, 1, 5, 5)
    assert lossy(one.ack) is Verdict.UNKNOWN
    assert lossy(two.complete, "done") is Verdict.UNKNOWN
    assert queue.wait(two.id, 0) == "done"
    assert lossy(three.release) is Verdict.UNKNOWN
    assert lossy(four.reject, "bad") is Verdict.UNKNOWN
    lossy(five.extend)
    state = queue.state()
    assert (state.ready, state.unacked, state.dead) == (2, 1, 1)
    assert lossy(queue.redrive) in (0, 1)
    assert queue.state().ready == 3
    queue.engine.close()


def test_a_put_is_called_again_by_hand_with_an_id_of_its_own(proxy: Proxy) -> None:
    """Then it is the same message; each call without one is another."""
    publish = scripts.get("publish").sha.encode()
    options = {"retry_attempts": 0}
    queue = Queue("q", proxy.url, **options)
    queue.engine.nodes()[0].load()

    def twice(put: Callable[[], Any]) -> Any:
        queue.state()
        proxy.drop_reply(matching=publish)
        with pytest.raises(ServerUnavailable):
            put()
        return put()

    async def put_async() -> Any:
        async with AsyncEngine(proxy.url, **options) as engine:
            return await AsyncQueue("q", engine).put("x", id="three")

    twice(lambda: queue.put("x", id="one"))
    twice(lambda: queue.put_many([Item("x", id="two"), Item("x", id="and two")]))
    twice(lambda: asyncio.run(put_async()))
    assert queue.state().ready == 4
    assert [message.id for message in queue.claim_many(9)] == ["one", "two", "and two", "three"]
    queue.engine.close()


def test_what_died_in_a_claim_whose_reply_was_lost_is_told(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url)
    sent = [queue.put(n, ttl=0.001) for n in range(3)]
    time.sleep(0.01)
    queue.state()  # past the probe
    queue.engine.nodes()[0].load()
    proxy.drop_reply()
    assert queue.claim() is None
    assert proxy.dropped == 1
    for each in sent:
        with pytest.raises(MessageFailed, match="expired"):
            each.wait(0)
    queue.engine.close()


def test_what_died_is_told_though_the_server_went_away_meanwhile(proxy: Proxy) -> None:
    """The messages claimed with it are handed over all the same."""
    queue = Queue("q", proxy.url, retry_attempts=0)
    queue.put("good")
    sent = queue.put("bad", ttl=0.001)
    queue.put("good too")
    time.sleep(0.01)
    queue.engine.nodes()[0].load()
    proxy.drop_reply(matching=scripts.get("tell").sha.encode())
    with Receiver([queue]) as receiver:
        assert [message.body for message in receiver.receive(10, 1)] == ["good", "good too"]
        assert proxy.dropped == 1
        queue.engine.command("DEL", queue.keys.result(sent.id))  # as if it had not arrived
        assert receiver.receive(10, 0) == []
    with pytest.raises(MessageFailed, match="expired"):
        sent.wait(0)
    queue.engine.close()


def test_acks_that_ride_with_a_lost_claim_are_neither_lost_nor_called_too_late(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue("q", proxy.url)
    queue.put_many(range(40))
    got = []
    for message in queue.consume(prefetch=4, timeout=0):
        with message:
            got.append(message.body)
            if message.body % 4 == 3:
                proxy.drop_reply()
    assert got == list(range(40))
    assert queue.state().stats["acked"] == 40
    assert "too late" not in caplog.text
    queue.engine.close()


def test_a_claim_that_was_never_answered_is_given_back(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url, retry_attempts=1)
    queue.engine.nodes()[0].load()
    queue.put_many(range(3))
    receiver = Receiver([queue])
    proxy.drop_reply(2)
    with pytest.raises(ServerUnavailable, match="2 attempts"):
        receiver.receive(2, 0)
    assert queue.state().unacked == 2
    messages = receiver.receive(3, 0)
    assert [(m.body, m.deliveries) for m in messages] == [(0, 1), (1, 1), (2, 1)]
    queue.put("one more")
    proxy.drop_reply(2)
    with pytest.raises(ServerUnavailable):
        receiver.receive(1, 0)
    assert queue.state().unacked == 4
    receiver.close()
    assert queue.state().unacked == 3, "those in hand stay in hand"
    queue.engine.close()


def test_what_claim_got_no_answer_to_is_given_back_at_once(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url, retry_attempts=1)
    queue.engine.nodes()[0].load()
    queue.put_many(range(3))
    for claim in (queue.claim, lambda: queue.claim_many(2)):
        delivered = queue.state().stats.get("delivered", 0)
        proxy.drop_reply(2)
        with pytest.raises(ServerUnavailable):
            claim()
        state = queue.state()
        assert state.stats["delivered"] > delivered, "it was carried out"
        assert (state.unacked, state.ready) == (0, 3)
    assert [(m.body, m.deliveries) for m in queue.claim_many(3)] == [(0, 1), (1, 1), (2, 1)]
    queue.engine.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_a_claim_may_have_got_is_given_back_though_its_consumer_has_left(
    proxy: Proxy, is_async: bool
) -> None:
    """By the thread of the leases, once the server answers again."""

    async def claim_async() -> None:
        async with AsyncQueue("q", proxy.url, retry_attempts=0) as consumer:
            await consumer.state()
            proxy.drop_reply(2)
            with pytest.raises(ServerUnavailable):
                await consumer.claim()
            await asyncio.to_thread(wait_until, "it to be given back", given_back)

    def given_back() -> bool:
        return queue.state().ready == 1

    with Queue("q", proxy.url, retry_attempts=0) as queue:
        queue.engine.nodes()[0].load()
        queue.put(1)
        if is_async:
            asyncio.run(claim_async())
        else:
            proxy.drop_reply(2)
            with pytest.raises(ServerUnavailable):
                queue.claim()
            wait_until("it to be given back", given_back)
        assert proxy.dropped == 2
        assert queue.state().stats["released"] == 1, "so it was claimed"


@contextmanager
def ctrl_c(seconds: float) -> Iterator[None]:
    """KeyboardInterrupt in the main thread, while it waits for the server."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind_of_engine", ["sync", "asyncio"])
def test_a_claim_sent_ahead_whose_answer_was_lost_is_asked_for_again(
    proxy: Proxy, server: Server, kind_of_engine: str
) -> None:
    """Behind a wait, over the connection that waits: its message was leased to no consumer."""
    queue = Queue("q", proxy.url)
    proxy.drop_reply(matching=b"BLPOP")

    def put_when_it_waits() -> None:
        db = server.client()
        wait_until("it to wait", lambda: db.info("clients")["blocked_clients"])
        Queue("q", server.url).put("x")

    async def claim() -> Any:
        async with AsyncQueue("q", proxy.url) as other:
            message = await other.claim(timeout=5)
            assert message is not None
            return message.deliveries, await message.ack()

    thread = threading.Thread(target=put_when_it_waits, daemon=True)
    thread.start()
    if kind_of_engine == "asyncio":
        deliveries, _ = asyncio.run(claim())
    else:
        message = queue.claim(timeout=5)
        assert message is not None
        deliveries = message.deliveries
        message.ack()
    thread.join()
    assert proxy.dropped == 1
    assert deliveries == 1, "what was not begun is not counted"


def test_an_interrupted_claim_leaves_nothing_leased(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url)
    queue.engine.nodes()[0].load()
    queue.put_many(range(3))
    receiver = Receiver([queue])
    for claim in (
        queue.claim,
        lambda: queue.claim_many(2),
        lambda: queue.claim(timeout=1),
        lambda: receiver.receive(2, 0),
    ):
        delivered = queue.state().stats.get("delivered", 0)
        proxy.delay(200)
        with pytest.raises(KeyboardInterrupt), ctrl_c(0.1):
            claim()
        proxy.delay(0)
        receiver.close()
        state = queue.state()
        assert state.stats["delivered"] > delivered, "it was carried out"
        assert (state.unacked, state.ready) == (0, 3)
    assert [(m.body, m.deliveries) for m in queue.claim_many(3)] == [(0, 1), (1, 1), (2, 1)]
    queue.engine.close()


def test_an_interrupted_claim_of_one_by_one_leaves_nothing_leased(proxy: Proxy) -> None:
    """Nor does it lose the ack that it took along."""
    queue = Queue("q", proxy.url)
    queue.put_many(range(3))
    messages = queue.consume(prefetch=1)
    with next(messages):
        proxy.delay(200)
    with pytest.raises(KeyboardInterrupt), ctrl_c(0.1):
        next(messages)
    proxy.delay(0)
    state = queue.state()
    assert (state.stats["delivered"], state.stats["acked"]) == (2, 1), "it was carried out"
    assert (state.unacked, state.ready) == (0, 2)
    assert [(m.body, m.deliveries) for m in queue.claim_many(3)] == [(1, 1), (2, 1)]
    queue.engine.close()


def test_a_cancelled_claim_leaves_nothing_leased(proxy: Proxy) -> None:
    async def main() -> None:
        async with AsyncEngine(proxy.url) as engine:
            queue = AsyncQueue("q", engine)
            await queue.put_many(range(3))  # past the probe
            await queue.give_back(await queue.claim_many(3))  # the scripts are loaded
            receiver = AsyncReceiver([queue])
            for claim in (lambda: receiver.receive(3, 0), lambda: queue.claim_many(3), queue.claim):
                delivered = (await queue.state()).stats["delivered"]
                proxy.delay(200)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await claim()
                proxy.delay(0)
                await receiver.close()
                state = await queue.state()
                assert state.stats["delivered"] > delivered, "it was carried out"
                assert (state.unacked, state.ready) == (0, 3)
            messages = await queue.claim_many(3)
            assert [(m.body, m.deliveries) for m in messages] == [(0, 1), (1, 1), (2, 1)]

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_not_waited_for_without_end(proxy: Proxy) -> None:
    queue = Queue("q", proxy.url, socket_timeout=0.1, retry_budget=0.5)
    queue.put("x")
    proxy.block()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        queue.put("y")
    with pytest.raises(ServerUnavailable):
        queue.claim()
    assert time.monotonic() - began < 5
    proxy.unblock()
    wait_until("it to be back", lambda: queue.claim(timeout=1), 5)
    queue.engine.close()


def test_a_server_that_was_never_there_is_an_error_at_once_without_retries(tmp_path: Any) -> None:
    queue = Queue("q", f"redis+socket://{tmp_path}/none", retry_attempts=0)
    for use in (lambda: queue.put("x"), queue.claim, lambda: next(queue.consume()), queue.state):
        with pytest.raises(ServerUnavailable):
            use()
    with pytest.raises(ConnectionError):
        queue.wait("nothing", 1)

    async def main() -> None:
        async with AsyncEngine(f"redis+socket://{tmp_path}/none", retry_attempts=0) as engine:
            with pytest.raises(ServerUnavailable):
                await anext(aiter(AsyncQueue("q", engine)))

    asyncio.run(main())


def test_threads_that_find_the_server_away_each_wait_for_their_budget(tmp_path: Any) -> None:
    """One asks, the others share its answer; none waits for the others' turns."""
    took: list[float] = []

    def put() -> None:
        began = time.monotonic()
        with pytest.raises(ServerUnavailable):
            queue.put("x")
        took.append(time.monotonic() - began)

    queue = Queue("q", f"redis+socket://{tmp_path}/none", retry_budget=0.3)
    threads = [threading.Thread(target=put, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 8
    assert 0.3 <= min(took) <= max(took) < 1


# ── the server is restarted ───────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_claim_that_is_refused_for_want_of_memory_ends_no_consumer(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It took nothing, so it is asked again: a worker that ended would come back to the same."""
    claim, db = greedy_claim(), server.client()
    db.script_load(claim.text)
    monkeypatch.setattr("atomq.calls.claiming._CLAIM", claim)
    queue, stop = Queue("q", server.url), threading.Event()
    got: list[Any] = []

    def work() -> None:
        queue.work(lambda m: got.append(m.body), stop=stop)

    queue.put(1)
    with ExitStack() as stack:
        with full_memory(db):
            stack.enter_context(running(work, stop=stop))
            wait_until("a second try", lambda: caplog.text.count("the server is at maxmemory") > 1)
            assert (got, queue.state().ready) == ([], 1)
        wait_until("the message", lambda: got == [1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("how", ["away", pytest.param("a replica", marks=pytest.mark.long)])
def test_a_restart_is_no_error_for_producers(
    own_server: Server, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The library's, sync and async, and Kombu's; and it is said once that the server is away."""
    server, stop = own_server, threading.Event()
    queue = Queue("q", server.url)
    put: Counter[str] = Counter()

    def sync(name: str) -> None:
        while not stop.is_set():
            queue.put(name)
            put[name] += 1

    async def asynchronous() -> None:
        async with AsyncEngine(server.url) as engine:
            while not stop.is_set():
                await AsyncQueue("q", engine).put("async")
                put["async"] += 1

    def kombu() -> None:
        with Connection(server.url.replace("redis+socket", "atomq+socket")) as connection:
            producer = connection.Producer(auto_declare=False)
            while not stop.is_set():
                producer.publish("kombu", routing_key="k", retry=False)
                put["kombu"] += 1

    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(sync, "one"),
            pool.submit(sync, "another"),
            pool.submit(asyncio.run, asynchronous()),
            pool.submit(kombu),
        ]
        wait_until("all to put", lambda: len(put) == 4)
        if how == "away":
            server.restart(down=2.0)
        else:
            server.client().execute_command("REPLICAOF 127.0.0.1 1")
            time.sleep(2.0)
            server.client().execute_command("REPLICAOF NO ONE")
        before = put.copy()
        wait_until("all to put again", lambda: all(put[name] > before[name] for name in before))
        stop.set()
        for each in running:
            each.result()
    ready = queue.state().ready + queue.engine.command("LLEN", "k")
    assert ready == put.total(), "what was sent again was put once"
    said = [record.getMessage() for record in caplog.records if record.name == "atomq.client"]
    here = queue.engine.address.safe_url
    said = [line for line in said if here in line]  # and not what tests before left
    assert ["waiting" in line for line in said] == [True, False]
    assert "is back after" in said[1]
    queue.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_consumers_of_a_server_that_is_away_say_so_once(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """And so do their leases, and the acks that wait."""
    server = own_server
    queue = Queue("q", server.url, lease=3, retry_budget=0.2)
    queue.put_many(range(3))
    held, both, stop = queue.claim(), threading.Barrier(3), threading.Event()

    def consume() -> None:
        queue.work(lambda _: both.wait(), prefetch=1, stop=stop)

    with running(consume, consume, stop=stop):
        both.wait(20)
        server.restart(down=1.5)
        wait_until("the server to be back", lambda: "is back after" in caplog.text)
        assert held is not None
        held.ack()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["waiting" in line for line in said] == [True, False]
    queue.engine.close()


@pytest.mark.slow
def test_a_restart_under_consumers_costs_nothing(own_server: Server) -> None:
    """What is held stays held, acks that wait are sent when it is back, consumers go on."""
    server = own_server
    queue = Queue("q", server.url, lease=15)
    queue.put_many(range(200))
    got: Counter[int] = Counter()
    lock = threading.Lock()

    def note(body: int) -> None:
        with lock:
            got[body] += 1

    def consume() -> None:
        for message in queue.consume(prefetch=5):
            with message:
                if message.body == "stop":
                    break
                note(message.body)
                time.sleep(0.005)

    async def consume_async() -> None:
        async with AsyncEngine(server.url, lease=15) as engine:
            async for message in AsyncQueue("q", engine).consume(prefetch=5):
                async with message:
                    if message.body == "stop":
                        break
                    note(message.body)
                    await asyncio.sleep(0.005)

    held = queue.claim()
    assert held is not None
    threads = [threading.Thread(target=consume, daemon=True) for _ in range(2)]
    threads.append(threading.Thread(target=lambda: asyncio.run(consume_async())))
    for thread in threads:
        thread.start()
    wait_until("some to be done", lambda: sum(got.values()) > 20)
    for _ in range(2):
        server.restart(down=0.8)
        time.sleep(0.1)
    queue.put_many([Item("stop", priority=9)] * 3)
    for thread in threads:
        thread.join()
    assert got == Counter(range(1, 200)), "each once, and what is held by nobody else"
    assert held.ack() is Verdict.DONE
    wait_until("the acks to arrive", lambda: queue.state().unacked == 0)
    assert queue.state().stats["acked"] == 203
    queue.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_what_is_settled_while_the_server_is_away_is_settled_when_it_is_back(
    own_server: Server,
) -> None:
    """As Celery's workers give back: by the thread that renews, if the caller could not."""
    queue = Queue("q", own_server.url, retry_attempts=0)
    queue.put("x")
    message = queue.claim()
    assert message is not None
    back = [(message.receipt, "")]
    own_server.kill()
    assert not queue.keeper.settle([message.receipt], lambda: flows.give_back(queue.keys, back))
    assert queue.keeper.holds(message.receipt)
    time.sleep(0.5)  # it is tried again, in vain
    own_server.start()
    wait_until("it to be given back", lambda: queue.state().ready == 1)
    wait_until("it to be let go", lambda: not queue.keeper.holds(message.receipt), 1)
    queue.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_message_finished_while_the_server_is_away_is_acked_when_it_is_back(
    own_server: Server,
) -> None:
    queue = Queue("q", own_server.url, retry_attempts=0)
    queue.put_many([1, 2])
    with queue.claim():  # type: ignore[union-attr]
        own_server.kill()
    with pytest.raises(ServerUnavailable):
        queue.state()
    own_server.start()
    wait_until("the ack to arrive", lambda: queue.state().stats.get("acked") == 1)
    assert [m.body for m in queue.claim_many(5)] == [2]
    queue.engine.close()


ENDS = {
    "fails": {"delayed": 1, "stats": "released"},
    "dies": {"dead": 1, "stats": "dead"},
    "unstarted": {"ready": 1, "stats": "released"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_otherwise_while_the_server_is_away_is_settled_when_it_is_back(
    own_server: Server, end: str, is_async: bool
) -> None:
    """Not when its lease of a minute ends, as if its consumer had died."""
    options: Any = {"retry_budget": 0.1, "max_deliveries": 1 if end == "dies" else 5}

    def leave() -> None:
        queue = Queue("q", own_server.url, backoff=lambda _: 3600, **options)
        with queue, Receiver([queue]) as receiver:
            (message,) = receiver.receive(1)
            own_server.kill()
            if end == "unstarted":
                receiver.return_unstarted([message])
            else:
                with pytest.raises(LookupError), message:
                    raise LookupError
            assert queue.keeper.holds(message.receipt)
            own_server.start()
            wait_until("it to be let go", lambda: not queue.keeper.holds(message.receipt))

    async def leave_async() -> None:
        queue = AsyncQueue("q", own_server.url, backoff=lambda _: 3600, **options)
        async with queue, AsyncReceiver([queue]) as receiver:
            (message,) = await receiver.receive(1)
            own_server.kill()
            if end == "unstarted":
                await receiver.return_unstarted([message])
            else:
                with pytest.raises(LookupError):
                    async with message:
                        raise LookupError
            assert queue.keeper.holds(message.receipt)
            own_server.start()
            wait_until("it to be let go", lambda: not queue.keeper.holds(message.receipt))

    with Queue("q", own_server.url) as queue:
        queue.put("x")
        if is_async:
            asyncio.run(leave_async())
        else:
            leave()
        state = queue.state()
    expected = dict(ENDS[end])
    assert state.stats[expected.pop("stats")] == 1
    assert state.unacked == 0
    assert {name: getattr(state, name) for name in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_that_is_cancelled_at_its_end_is_settled_when_the_server_is_back(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(cancellation, "PROMPT", 0.1)

    async def work(queue: AsyncQueue, ended: asyncio.Event) -> None:
        message = await queue.claim()
        assert message is not None
        async with message:
            own_server.kill()
            ended.set()
            if fails:
                raise LookupError

    async def main() -> None:
        async with AsyncQueue("q", own_server.url, retry_budget=60) as queue:
            await queue.put("x")
            ended = asyncio.Event()
            task = asyncio.create_task(work(queue, ended))
            await ended.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            own_server.start()
            await asyncio.to_thread(wait_until, "it to be settled", settled)

    def settled() -> bool:
        with Queue("q", own_server.url) as queue:
            return queue.state().stats.get("released" if fails else "acked") == 1

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_block_whose_end_is_interrupted_is_settled_when_the_server_is_back(
    own_server: Server,
) -> None:
    with Queue("q", own_server.url, retry_budget=60) as queue:
        queue.put_many([1, 2])
        for fails, verb in ((False, "acked"), (True, "released")):
            message = queue.claim()
            assert message is not None
            with ExitStack() as stack:
                stack.enter_context(pytest.raises(KeyboardInterrupt))
                stack.enter_context(message)
                own_server.kill()
                interrupt = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
                interrupt.start()
                if fails:
                    raise LookupError
            interrupt.join()
            own_server.start()
            wait_until("it to be settled", lambda verb=verb: queue.state().stats.get(verb) == 1)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_server_that_is_a_replica_for_a_while_is_no_error(
    own_server: Server, is_known: bool
) -> None:
    """Redis 6.2 says so in words of its own where a script writes."""
    db = own_server.client()
    with Queue("q", own_server.url) as queue:
        Queue("other", own_server.url).put(1)  # the scripts are there
        if is_known:
            queue.put(1)
        db.replicaof("127.0.0.1", 1)
        db.config_resetstat()
        with ThreadPoolExecutor(1) as pool:
            putting = pool.submit(queue.put, 2)
            calls = "cmdstat_evalsha"
            wait_until(
                "it to be tried again",
                lambda: (
                    putting.done() or db.info("commandstats").get(calls, {"calls": 0})["calls"] > 2
                ),
            )
            db.replicaof("no", "one")
            assert putting.result(5).new
        assert queue.state().ready == 1 + is_known


@pytest.fixture
def forgetful(kind: str) -> Iterator[Server]:
    """A server with an AOF, and a user `plain` that may not load scripts; a restart keeps both."""
    with ExitStack() as stack:
        server = Server(kind, persistent=True)
        stack.callback(server.stop)
        users = server.directory / "users.acl"
        server._options["aclfile"] = str(users)
        users.write_text(
            "user default on nopass ~* &* +@all\nuser plain on >p ~* &* +@all -script\n"
        )
        server.start()
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis-6.2", "valkey-9"], indirect=True)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_server_that_began_anew_is_given_its_scripts_by_the_first_that_may(
    forgetful: Server, is_async: bool
) -> None:
    """Not only those that it runs: users that may not load any go on by themselves."""
    plain = forgetful.tcp_url.replace("//", "//plain:p@")
    got, stop = SimpleQueue[int](), threading.Event()

    def consume(name: str, url: str) -> None:
        with Queue(name, url) as queue:
            for message in queue.consume(stop=stop):
                with message:
                    got.put(message.body)

    async def consume_async(name: str, url: str) -> None:
        async with AsyncQueue(name, url) as queue:
            async for message in queue.consume(stop=stop):
                async with message:
                    got.put(message.body)

    def consume_either(name: str, url: str) -> None:
        asyncio.run(consume_async(name, url)) if is_async else consume(name, url)

    with ExitStack() as stack:
        stack.enter_context(running(lambda: consume("other", forgetful.url), stop=stop))
        wait_until("all scripts", lambda: knows_all(forgetful))
        stack.enter_context(running(lambda: consume_either("q", plain), stop=stop))
        producer = stack.enter_context(Queue("q", plain))
        producer.put(1)
        assert got.get(timeout=5) == 1
        forgetful.restart()
        assert producer.put(2).new
        assert got.get(timeout=5) == 2
        wait_until("all scripts", lambda: knows_all(forgetful))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_what_may_not_load_goes_on_as_soon_as_the_scripts_are_there(
    forgetful: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A consumer waits, a call for its `retry_budget`; both say what is to be done."""
    plain = forgetful.tcp_url.replace("//", "//plain:p@")
    with Engine(forgetful.url) as admin, Queue("q", plain, retry_budget=1.5) as queue:
        admin.nodes()[0].load()
        queue.put(1)
        with ThreadPoolExecutor(1) as pool:
            message = next(messages := queue.consume())
            message.ack()
            forgetful.restart()
            waiting = pool.submit(next, messages)
            with pytest.raises(ServerUnavailable, match="may not load it: run `atomq scripts load"):
                queue.put(2)
            assert not waiting.done()
            assert "run `atomq scripts load" in caplog.text
            with Queue("q", plain) as new, pytest.raises(ScriptsNotLoaded, match="scripts load"):
                new.put(2)  # at once: it never saw them there
            admin.nodes()[0].load()
            queue.put(3)
            assert waiting.result(5).body == 3
            messages.close()


def knows_all(server: Server) -> bool:
    return all(server.client().script_exists(*(script.sha for script in scripts.every())))


def test_scripts_flushed_under_load(server: Server) -> None:
    db = server.client()
    with again_and_again(db.script_flush, 0.003) as flushed, Engine(server.url) as engine:
        queue = Queue("q", engine)
        queue.put_many(range(100))
        got = []
        for message in queue.consume(prefetch=3, timeout=0):
            with message:
                got.append(message.body)
        while flushed["times"] < 10:
            queue.put("x")
    assert got == list(range(100))


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("worker", ["sync", "asyncio"])
def test_a_server_that_forgets_its_scripts_between_any_two_flights(
    server: Server, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script and its call travel together, so the moment of a flush does not matter."""
    db = server.client()
    lines: Any = pool.Pool if worker == "sync" else pool_aio.AsyncPool

    def forgets_before(flight: str) -> None:
        fly = getattr(lines, flight)

        def forgetting(*args: Any, **options: Any) -> Any:
            db.script_flush()
            return fly(*args, **options)

        monkeypatch.setattr(lines, flight, forgetting)

    async def main() -> list[Any]:
        async with AsyncQueue("q", server.url) as queue:
            await queue.put_many(range(3))
            return [message.body async for message in queue.consume(prefetch=3, timeout=0)]

    for flight in ("one", "over"):
        forgets_before(flight)
    if worker == "asyncio":
        assert asyncio.run(main()) == [0, 1, 2]
        return
    with Queue("q", server.url) as queue:
        queue.put_many(range(3))
        assert [message.body for message in queue.consume(prefetch=3, timeout=0)] == [0, 1, 2]


@pytest.mark.parametrize("callers", ["threads", "tasks"])
def test_many_callers_whose_answers_are_lost_put_each_message_once(
    server: Server, proxy: Proxy, callers: str
) -> None:
    """Their calls come out of order, over connections that break; producers are used again."""
    options = {"retry_attempts": 9, "retry_budget": 30}

    def lose(n: int) -> None:
        if n % 40 == 7:
            proxy.drop_reply()
        if n % 70 == 9:
            proxy.drop_request()

    if callers == "threads":
        with Queue("q", proxy.url, **options) as queue, ThreadPoolExecutor(8) as pool:

            def put(n: int) -> None:
                lose(n)
                queue.put(n)

            list(pool.map(put, range(400)))
    else:

        async def put_all() -> None:
            async with AsyncQueue("q", proxy.url, **options) as queue:

                async def put_some(first: int) -> None:
                    for n in range(first, 400, 8):
                        lose(n)
                        await queue.put(n)

                await asyncio.gather(*map(put_some, range(8)))

        asyncio.run(put_all())
    with Queue("q", server.url) as queue:
        assert sorted(one.body for one in queue.peek("ready", 1000)) == list(range(400))
        assert queue.state().stats["published"] == 400
    assert len(server.client().keys("*producer*")) <= 8


# ── a message that can never be received ──────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_message_larger_than_a_subscriber_may_be_sent_comes_to_who_waits(
    own_server: Server,
) -> None:
    """A connection that waits also listens, so the server cuts it off sooner than others."""
    db = own_server.client()
    db.config_set("client-output-buffer-limit", "pubsub 1000000 1000000 60")
    with Engine(own_server.url) as engine, ThreadPoolExecutor(1) as pool:
        queue = Queue("q", engine)
        waiting = pool.submit(queue.claim, timeout=10)
        wait_until("it to wait", lambda: db.info("clients")["blocked_clients"] == 1)
        queue.put("x" * 2_000_000)
        message = waiting.result()
        assert message is not None
        assert len(message.body) == 2_000_000
        assert message.deliveries == 1
        message.ack()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("consumer", ["library", "kombu"])
def test_a_message_too_large_for_every_connection_ends_in_dead_letters(
    own_server: Server, consumer: str
) -> None:
    """The server hangs up instead of sending it. Each try counts; what stands behind it comes."""
    options = {"lease": 0.3, "max_deliveries": 2, "retry_attempts": 1}
    queue = Queue("q", own_server.url, **options)
    queue.put("x" * 2_000_000)
    queue.put("small")
    db, got = own_server.client(), list[Any]()
    limits = "{0} 1000000 1000000 60"
    for kind in ("normal", "pubsub"):
        db.config_set("client-output-buffer-limit", limits.format(kind))

    def claim() -> None:
        message = queue.claim(timeout=0.2)
        if message is not None:
            got.append(message.body)
            message.ack()

    def drain() -> None:
        url = own_server.url.replace("redis+socket", "atomq+socket")
        connection = Connection(url, transport_options=options)
        with connection, connection.SimpleQueue("q", no_ack=False) as simple:
            message = simple.get(timeout=0.2)
            got.append(message.payload)
            message.ack()

    end = time.monotonic() + 30
    # On a busy machine its lease may be over before the next claim: it then comes first once more.
    while not (db.xlen(queue.keys.dead) and got):
        assert time.monotonic() < end
        try:
            claim() if consumer == "library" else drain()
        except (ServerUnavailable, redis.ConnectionError, Empty):
            continue
    assert got == ["small"]
    db.config_set("client-output-buffer-limit", "normal 0 0 0")
    (letter,) = queue.peek("dead")
    assert (letter.reason, len(letter.body)) == ("max_deliveries", 2_000_000)
    assert queue.state().unacked == 0
