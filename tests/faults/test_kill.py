"""SIGKILL of whoever holds messages, and of the server: nothing is lost, nothing is done twice.

The workers are forked, so a kill costs milliseconds and twenty of them fit in a short run;
ATOMQ_LONG=1 makes it hundreds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from atomq import calls
from atomq.calls import Outgoing, Verdict
from atomq.client import Engine
from atomq.errors import ServerUnavailable
from atomq.ids import Ids, Producers
from atomq.keys import QueueKeys
from tests.conftest import LONG
from tests.lua.rig import Queue, Rig, msg, name_of
from tests.servers import Server, wait_until

KILLS = 200 if LONG else 30
LEASE_MS = 300


@contextlib.contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a forked process; it is killed with SIGKILL in the end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def publish(engine: Engine, keys: QueueKeys, first: int, n: int) -> None:
    outgoing = [Outgoing(msg(i), str(i)) for i in range(first, first + n)]
    engine.run(calls.publish(keys, outgoing))


def working(url: str, queue: str) -> Callable[[], None]:
    """A worker that claims a few, works for a moment, and completes or releases one by one."""

    def work() -> None:
        engine, ids = Engine(url), Ids()
        keys = engine.keys(queue)
        while True:
            claim = calls.claim([keys], ids.next(), limit=5, lease_ms=LEASE_MS)
            for each in engine.run(claim).deliveries:
                time.sleep(random.uniform(0, 0.002))
                name = name_of(each)
                if random.random() < 0.1:
                    delay = random.choice([0, 20])
                    engine.run(calls.release(keys, [(each.receipt, name)], delay_ms=delay))
                else:
                    engine.run(calls.complete(keys, [(each.receipt, name, str(os.getpid()))]))

    return work


def balance(q: Queue) -> int:
    """How many messages there are, wherever they are, those that are done included."""
    state = q.run(calls.inspect(q.keys))
    assert state.inconsistent == 0
    return int(  # one call: what it counts was so at one instant
        state.ready + state.unacked + state.delayed + state.dead + state.stats.get("acked", 0)
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", ["stock", "cluster"])
def test_killing_workers_in_a_loop_loses_nothing(server: Server, layout: str) -> None:
    """Catches a move that is two calls: a kill between them loses a message, or doubles it."""
    rig = Rig(server, layout)
    q = rig.queue()
    url = f"{server.url}&layout={layout}"
    put = kills = 0
    while kills < KILLS // 2:
        publish(rig.engine, q.keys, put, 40)
        put += 40
        with process(working(url, "q")), process(working(url, "q")):
            done = q.stats.get("acked", 0)
            wait_until("a worker to work", lambda before=done: q.stats.get("acked", 0) > before)
            time.sleep(random.uniform(0, 0.03))
        kills += 2
        assert balance(q) == put
    with process(working(url, "q")), process(working(url, "q")):
        wait_until("all to be done", lambda: q.stats["acked"] == put, seconds=30)
    assert [i for i in range(put) if q.result(str(i)) is None] == []
    assert q.stats["acked"] == put
    assert q.places() == {}
    assert q.stats.get("expired", 0) > 0, "no worker was killed at work"
    rig.engine.close()


@pytest.mark.slow
def test_living_holders_keep_theirs_over_an_outage_longer_than_a_lease(own_server: Server) -> None:
    """Holders renew as long as they live; who asks first when the server is back gets nothing."""
    rig = Rig(own_server, "stock", retry_attempts=1, retry_budget=0.1)
    thief = Rig(own_server, "stock", retry_attempts=1, retry_budget=0.1)
    q = rig.queue()
    lease = 900
    publish(rig.engine, q.keys, 0, 20)
    held = [each.receipt for each in q.take(20, lease_ms=lease)]
    stop = threading.Event()
    lost: list[Verdict] = []

    def renew() -> None:
        while not stop.wait(lease / 3000):
            with contextlib.suppress(ServerUnavailable):
                verdicts = rig.engine.run(calls.extend(q.keys, held, lease_ms=lease))
                lost.extend(v for v in verdicts if v is not Verdict.DONE)

    holder = threading.Thread(target=renew, daemon=True)
    holder.start()
    taken: set[str] = set()

    def steal(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(ServerUnavailable):
                got = thief.queue().take(20, by="thief", lease_ms=lease)
                taken.update(name_of(each) for each in got)
            time.sleep(0.01)

    try:
        steal(0.5)
        own_server.restart(down=1.5)
        steal(1.0)
        assert (taken, lost) == (set(), [])
    finally:
        stop.set()
        holder.join()
    steal(1.5)  # the holder is gone now
    assert len(taken) == 20
    rig.engine.close()
    thief.engine.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_killed_under_load_loses_nothing_it_confirmed(own_server: Server) -> None:
    """With appendfsync always: what was put is there, what was acked stays gone."""
    own_server.client().config_set("appendfsync", "always")
    rig = Rig(own_server, "stock", retry_attempts=9, retry_budget=30)
    q = rig.queue()
    put: set[str] = set()
    acked: set[str] = set()
    unsure: set[str] = set()
    stop = threading.Event()
    ids, producers = Ids(), Producers()

    def produce() -> None:
        n = 0
        while not stop.is_set():
            outgoing = [Outgoing(msg(f"m{n + i}"), "") for i in range(5)]
            rig.engine.run(calls.publish(q.keys, outgoing, call_id=producers.next()))
            put.update(name_of(each.message) for each in outgoing)  # type: ignore[arg-type]
            n += 5

    def consume() -> None:
        while not stop.is_set():
            call = calls.claim([q.keys], ids.next(), limit=5, lease_ms=2000)
            got = rig.engine.run(call).deliveries
            if not got:
                time.sleep(0.005)
                continue
            verdicts = rig.engine.run(calls.ack(q.keys, [each.receipt for each in got]))
            for each, verdict in zip(got, verdicts, strict=True):
                {Verdict.DONE: acked, Verdict.UNKNOWN: unsure}[verdict].add(name_of(each))

    threads = [threading.Thread(target=run, daemon=True) for run in (produce, consume, consume)]
    for thread in threads:
        thread.start()
    rounds = 10 if LONG else 2
    for _ in range(rounds):
        time.sleep(0.3)
        own_server.restart(down=0.1)
        own_server.client().config_set("appendfsync", "always")
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()

    q.db = own_server.client()
    left = set(q.places())  # fails if one is in two places
    assert not left & acked
    assert put <= left | acked | unsure
    assert not left & unsure, "it said unknown, and it was not done"
    assert len(acked) > 20 * rounds
    rig.engine.close()
