"""A lease means that its holder lives: tasks run once, or again soon when their worker is dead."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from typing import Any

import pytest

from atomq import Message, Queue, calls
from tests.contrib.rig import LONG, ON_ONE_KIND, POOLS, Fleet, Place, Worker, await_true, pools
from tests.servers import Server, wait_until

pytestmark = [pytest.mark.slow, ON_ONE_KIND]

LEASE = 2.0
OPTIONS = {"broker_transport_options": {"lease": LEASE}}


# ── alive means held ──────────────────────────────────────────────────────────────────────────


def test_tasks_three_times_as_long_as_the_lease_run_once(fleet: Fleet) -> None:
    late = fleet.each("work", 3 * LEASE)
    # In solo these wait behind it, claimed in the same batch and not started.
    behind = [fleet.send("work", 0.1, queue="solo") for _ in range(3)]
    fleet.ledger.await_starts(list(late.values()))
    for pool in POOLS:
        fleet.await_state(lambda s: s.ready == 0, queue=pool)
    thief, stolen = fleet.engine(lease=60.0), []
    deadline = time.monotonic() + 3 * LEASE - 0.5
    n = 0
    while time.monotonic() < deadline:
        for pool in POOLS:
            n += 1
            claim = calls.claim([thief.keys(pool)], f"thief-{n}", limit=10, lease_ms=60_000)
            stolen += thief.run(claim).deliveries
        time.sleep(0.1)
    assert stolen == []
    fleet.ledger.await_ends([*late.values(), *behind])
    fleet.await_all_empty()
    starts = fleet.ledger.starts()
    assert {starts[one] for one in [*late.values(), *behind]} == {1}
    fleet.assert_alive()


@pytest.mark.alone
def test_what_a_killed_worker_held_starts_elsewhere(at: Place) -> None:
    pools = ("prefork", "threads", "gevent")
    # A green pool of one takes no second task from the loop while it has one.
    slots = {"gevent": 4}
    dead = [at.worker(pool, slots.get(pool, 1), queues=pool, **OPTIONS) for pool in pools]
    heir = at.worker("threads", 20, queues=",".join(pools), **OPTIONS)
    for worker in dead:
        worker.ready()
    heir.ready()
    heir.freeze()  # so that it takes none of them yet
    time.sleep(0.1)
    ids = {pool: [at.send("work", 30, queue=pool) for _ in range(3)] for pool in pools}
    for pool in pools:
        at.await_state(lambda s: s.unacked == 3, queue=pool)
        at.ledger.await_starts(ids[pool][0])
    heir.thaw()
    time.sleep(LEASE)  # they are renewed, and the heir gets none
    assert all(at.state(pool).unacked == 3 for pool in pools)
    died = time.time()
    for worker in dead:
        worker.kill()
    heirs = {one: n for pool in pools for n, one in enumerate(ids[pool])}
    mine = [e for e in at.ledger.events() if e.what == "start"]

    def again() -> bool:
        now = {e.id for e in at.ledger.events() if e.pid == heir.pid}
        return now == set(heirs)

    wait_until("all of them to start", again, 10)
    last = max(e.at for e in at.ledger.events() if e.pid == heir.pid)
    assert last - died <= LEASE + 1.0 + 0.3, mine  # 0.3: two slow cores
    # Its own are not taken from the heir.
    assert all(count <= 2 for count in at.ledger.starts().values())


def _left(at: Place) -> int:
    state = at.state()
    return state.ready + state.unacked + state.delayed


@pools("prefork", "solo")
def test_a_task_that_kills_its_whole_worker_takes_no_other_along(at: Place, pool: str) -> None:
    """It dies of the ends that it met alone; all the others run."""
    options = {"lease": 1, "visibility_timeout": 1, "max_deliveries": 2}
    fatal = at.send("fatal")
    innocent = at.send_many(7, "work", 0.01)
    for _ in range(8):
        worker = at.worker(pool, 1 if pool == "solo" else 2, broker_transport_options=options)
        wait_until(
            "its end, or that of all tasks",
            lambda worker=worker: not (worker.alive and _left(at)),  # type: ignore[misc]
            40,
        )
        if worker.alive:
            break
    at.ledger.await_ends(innocent)
    at.await_empty()
    (letter,) = at.peek("dead")
    assert letter.reason == "max_deliveries"
    assert fatal.encode() in letter.raw
    # At most two in company, then two alone.
    assert at.ledger.starts()[fatal] == letter.deliveries <= 4


# ── told to stop ──────────────────────────────────────────────────────────────────────────────


def _stopped(
    at: Place, number: int, pools: tuple[str, ...], **conf: object
) -> dict[str, list[str]]:
    """Four tasks of 2 s in each pool, told to stop while the first runs; their ids by pool."""
    workers = {
        pool: at.worker(pool, 1, queues=pool, broker_transport_options={"lease": 30}, **conf)
        for pool in pools
    }
    for worker in workers.values():
        worker.ready()
    ids = {pool: [at.send("work", 2.0, queue=pool) for _ in range(4)] for pool in pools}
    for pool in pools:
        at.ledger.await_starts(ids[pool][0])
        at.await_state(lambda s: s.unacked >= 2, queue=pool)
    if "threads" in pools:
        # Its main thread answers when it has handed the task over. Told to stop in between, Celery
        # waits for ever for the lock of the pool, which that same thread holds.
        assert at.app.control.ping([workers["threads"].name], timeout=1.5, limit=1)
    ended = at.ledger.ends()
    for worker in workers.values():
        worker.send_signal(number)
    for worker in workers.values():
        worker.ended()
    # What had ended before is no part of the question.
    return {pool: [one for one in mine if not ended[one]] for pool, mine in ids.items()}


def _in_one_place(at: Place, pool: str, ids: list[str]) -> tuple[list[str], dict[str, int]]:
    """Those that ended, and those in ready with their delivery counts; no task is in both."""
    ready = at.peek("ready", pool)
    names = {m.raw.partition(b'"id": "')[2][:36].decode(): m.deliveries for m in ready}
    ends = at.ledger.ends()
    done = [one for one in ids if ends[one]]
    assert at.state(pool).unacked == 0, (pool, at.state(pool))
    assert sorted([*done, *names]) == sorted(ids), (pool, done, names)
    assert len(names) == len(ready), pool
    return done, names


def test_a_warm_shutdown_gives_back_what_was_not_started(at: Place) -> None:
    ids = _stopped(at, signal.SIGTERM, POOLS)
    starts = at.ledger.starts()
    for pool in POOLS:
        done, names = _in_one_place(at, pool, ids[pool])
        assert ids[pool][0] in done, (pool, "what runs ends")
        assert set(names.values()) <= {0}, (pool, "not counted")
        assert not any(starts[one] for one in names), (pool, "and not started")
        assert all(starts[one] == 1 for one in done), pool
        # Celery sends a pool one task ahead; what is left of a batch is not for a stopping worker.
        assert len(done) <= 2, (pool, starts)


def test_what_was_not_begun_is_given_back_before_what_runs_has_ended(at: Place) -> None:
    """TERM, and KILL before the tasks end, as systemd and Kubernetes do it."""
    pools = ("prefork", "threads", "gevent", "solo")
    ids = {pool: [at.send("work", 60, queue=pool) for _ in range(7)] for pool in pools}
    workers = {
        pool: at.worker(pool, 1 if pool == "solo" else 2, queues=pool, worker_prefetch_multiplier=8)
        for pool in pools
    }
    for pool, worker in workers.items():
        worker.ready()
        at.ledger.await_starts(ids[pool][: 1 if pool == "solo" else 2])
        at.await_state(lambda s: s.unacked >= 3, queue=pool)
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
    for pool in pools:
        runs = at.ledger.starts()
        most = 3 if pool == "gevent" else 2  # one waits for a place there, and Celery waits with it
        at.await_state(lambda s, most=most: s.unacked <= most, 5, queue=pool)
        names = {m.raw.partition(b'"id": "')[2][:36].decode() for m in at.peek("ready", pool)}
        assert {m.deliveries for m in at.peek("ready", pool)} == {0}, pool
        assert not any(runs[one] for one in names), pool
        assert workers[pool].alive, (pool, "its tasks run on")
        workers[pool].kill()


def test_what_was_given_back_is_not_begun_by_a_thread_that_is_free_before_its_pool_stops(
    at: Place,
) -> None:
    ids = at.send_many(100, "work", 0.02)
    worker = at.worker("threads", 2, worker_prefetch_multiplier=16).ready()
    at.ledger.await_starts(ids[:10])
    worker.stop()
    left = {m.raw.partition(b'"id": "')[2][:36].decode() for m in at.peek("ready")}
    starts = at.ledger.starts()
    assert [one for one in left if starts[one]] == []
    assert sorted([*left, *at.ledger.ends()]) == sorted(ids)


def test_solo_acks_what_it_has_done_before_its_next_task_has_ended(at: Place) -> None:
    """Celery leaves acks to the event loop, which runs the next task. If killed, all run again."""
    ids = [at.send("work", seconds) for seconds in 4 * (0, 1.0)]
    at.worker("solo", 1, worker_prefetch_multiplier=8)
    for done in (1, 3, 5, 7):
        at.ledger.await_starts(ids[done], 60)
        at.await_state(lambda s, done=done: s.stats.get("acked") == done, 0.8)
    at.ledger.await_ends(ids)


def test_a_pool_of_threads_that_is_joined_acks_what_is_done(at: Place) -> None:
    """Celery's event loop, which has the acks, goes on when all threads are done."""
    soon, long = at.send("work", 1.0), at.send("work", 4.0)
    worker = at.worker("threads", 2).ready()
    at.ledger.await_starts([soon, long])
    worker.send_signal(signal.SIGTERM)
    at.ledger.await_ends(soon)
    at.await_state(lambda s: s.unacked == 1, 2)
    assert not at.ledger.ends()[long]
    assert worker.ended() == 0
    assert (at.state().unacked, at.state().ready) == (0, 0)


@pytest.mark.parametrize("cut", [False, True], ids=["stopped", "cut off"])
def test_what_a_child_was_written_is_settled_though_it_had_not_said_that_it_begins(
    own: Place, cut: bool
) -> None:
    """Celery strikes it from the books of its pool then, and would not hear that it is done."""
    slow = own.send("work", kwargs={"value": "slowly"})
    worker = own.worker("prefork", 1).ready()
    wait_until("a child to read it", lambda: "reads" in own.ledger.path.read_text())
    behind = own.send("work")
    own.await_state(lambda s: s.unacked == 2)
    if cut:
        own.server.kill()
        worker.await_log("onnection to broker lost")
        own.server.start()
        wait_until("a new connection", lambda: worker.log.count("Connected to") == 2)
    else:
        worker.send_signal(signal.SIGTERM)
        own.await_state(lambda s: s.ready == 1)
    with own.ledger.path.open("a") as file:
        file.write("go\n")
    if cut:
        own.ledger.await_ends([slow, behind])
        own.await_empty()
        worker.stop()
    assert worker.ended(10) == 0
    assert own.ledger.ends() == own.ledger.starts() == {slow: 1, **({behind: 1} if cut else {})}
    assert (own.state().ready, own.state().unacked) == (int(not cut), 0)


def test_a_worker_that_ends_by_an_error_of_its_own_gives_back_what_it_held(at: Place) -> None:
    worker = at.worker("prefork", 1).ready()
    one = at.send("hungry")
    worker.ended()
    assert "MemoryError" in worker.log
    assert (at.state().unacked, at.state().ready) == (0, 1)
    (found,) = at.peek("ready")
    assert at.ledger.starts()[one] == 1
    assert json.loads(found.raw)["x-deliveries"] == 1, "it was begun"


# Celery's threads pool cannot end a task that runs (NotImplementedError in Celery), and in eventlet
# it acks the task it kills before it says so anywhere.
def test_a_cold_shutdown_gives_all_of_it_back(at: Place) -> None:
    pools = ("prefork", "gevent", "solo")
    ids = _stopped(at, signal.SIGQUIT, pools)
    starts = at.ledger.starts()
    for pool in pools:
        _, names = _in_one_place(at, pool, ids[pool])
        for one, deliveries in names.items():
            assert deliveries == min(1, starts[one]), (pool, "what may have started counts")


def test_a_cold_shutdown_in_the_midst_of_a_message_says_nothing_of_it(at: Place) -> None:
    """A pool of threads cannot end what runs, and Celery's signal handler raises that."""
    runs = at.send("work", 60)
    worker = at.worker("threads", 2, worker_prefetch_multiplier=4).ready()
    at.ledger.await_starts(runs)
    read = at.send("work", compression="quits")
    at.await_state(lambda s: s.unacked == 0)
    worker.kill()
    counts = {
        json.loads(found.raw)["headers"]["id"]: found.deliveries for found in at.peek("ready")
    }
    assert counts == {runs: 1, read: 0}, "what was begun counts"
    assert at.ledger.starts() == {runs: 1}
    at.worker("threads", 2).ready()
    at.ledger.await_ends(read)


def test_a_worker_that_stops_while_the_server_is_away_acks_what_it_has_done(own: Place) -> None:
    """It waits for the server: what is done would be done again. In prefork Celery reads results
    twice a second while it stops.
    """
    pools = ("prefork", "threads")
    workers = {pool: own.worker(pool, 2, queues=pool, task_ignore_result=True) for pool in pools}
    ids = [own.send("work", 1.0, queue=pool) for pool in pools]
    own.ledger.await_starts(ids, 60)
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
    own.ledger.await_ends(ids)
    own.server.kill()
    last = workers["prefork"]
    wait_until(
        "it to wait, or to have acked before",
        lambda: "waiting for the server" in last.log or not last.alive,
    )
    own.server.start()
    assert [worker.ended() for worker in workers.values()] == [0, 0]
    for pool in pools:
        assert (own.state(pool).unacked, own.state(pool).ready) == (0, 0), pool


def test_a_soft_shutdown_lets_tasks_end(at: Place) -> None:
    pools = ("prefork", "threads")  # in green pools Celery's handler may not wait, and fails
    ids = _stopped(at, signal.SIGQUIT, pools, worker_soft_shutdown_timeout=3.0)
    for pool in pools:
        done, _ = _in_one_place(at, pool, ids[pool])
        assert ids[pool][0] in done


# ── lost connections ──────────────────────────────────────────────────────────────────────────


def test_lost_connections_and_broker_restarts_under_load(fleet: Fleet) -> None:
    ids: list[str] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            for pool in POOLS:
                try:
                    ids.append(fleet.send("work", random.uniform(0.0, 0.3), queue=pool, retry=True))
                except Exception as error:  # noqa: BLE001 - the broker is away; it was not sent
                    print("not sent:", error)
            stop.wait(0.1)

    sender = threading.Thread(target=load)
    long = fleet.each("work", 4.0)
    fleet.ledger.await_starts(list(long.values()))
    sender.start()
    try:
        for _ in range(3):
            time.sleep(0.4)
            fleet.server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(0.5)
        fleet.server.restart(0.3)
        time.sleep(1.0)
        fleet.server.restart(0.0)
        time.sleep(1.0)
    finally:
        stop.set()
        sender.join()
    try:
        fleet.ledger.await_ends([*ids, *long.values()], 20)
    finally:
        print(fleet.where())
    fleet.await_all_empty(15)
    starts = fleet.ledger.starts()
    assert {one: starts[one] for one in [*ids, *long.values()] if starts[one] != 1} == {}
    fleet.assert_alive()


@pytest.mark.parametrize(
    ("lost", "pool"),
    [
        ("results", "threads"),
        *(("all", pool) for pool in ("prefork", "gevent")),
        *(
            pytest.param("all", pool, marks=pytest.mark.long)
            for pool in ("threads", "solo", "eventlet")
        ),
    ],
)
def test_a_task_whose_result_cannot_be_stored_is_not_held_for_ever(
    own: Place, lost: str, pool: str
) -> None:
    """Celery acks it in prefork, and forgets it elsewhere."""
    with Server(own.server.kind) as results:
        server = own.server if lost == "all" else results
        never = {"retry_policy": {"max_retries": 1, "interval_start": 0}}
        options = {"result_backend_transport_options": never, "worker_prefetch_multiplier": 1}
        worker = own.worker(pool, 1, backend=server.url, **OPTIONS, **options).ready()
        one = own.send("work", 1.0, "stored")
        own.ledger.await_starts(one)
        server.restart(2 * LEASE)
        own.await_empty()
        two = own.send("work", 0, "stored")  # its only place is free
        own.ledger.await_ends(two)
        own.await_empty()
        assert own.ledger.starts()[one] <= 2
        assert worker.alive


@pools("gevent", long=["eventlet"])
def test_greenlets_run_on_while_the_broker_is_away(own: Place, pool: str) -> None:
    worker = own.worker(pool, 4, backend=None, **OPTIONS).ready()
    one = own.send("work", 2.5)
    own.ledger.await_starts(one)
    own.server.restart(3.0)  # the second try to connect fails, too, and is followed by 4 seconds
    own.ledger.await_ends(one)
    start, end = (e.at for e in own.ledger.events() if e.id == one)
    assert end - start < 3.0
    own.await_empty()
    assert own.ledger.starts()[one] == 1
    assert worker.alive


def test_a_task_that_is_cancelled_for_a_lost_connection_is_given_back(own: Place) -> None:
    told: dict[str, Any] = {"worker_cancel_long_running_tasks_on_connection_loss": True}
    # On the same server the backend could not be told that the task is cancelled.
    worker = own.worker("prefork", 1, backend=None, **told).ready()
    one = own.send("work", 60)
    own.ledger.await_starts(one)
    own.server.kill()
    worker.await_log("Cannot connect")
    own.server.start()
    own.ledger.await_starts(one, 20, times=2)  # and not when a lease of 60 s has ended


def test_reconnects_leave_nothing_behind(fleet: Fleet) -> None:
    def lose(times: int) -> None:
        for _ in range(times):
            fleet.server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
            done = fleet.each("early")
            fleet.ledger.await_starts(list(done.values()))

    lose(3)
    measured = ("prefork", "threads", "solo")
    before = {pool: fleet.of[pool].vitals(fleet.ledger) for pool in measured}
    lose(100 if LONG else 30)
    after = {pool: fleet.of[pool].vitals(fleet.ledger) for pool in measured}
    for pool in measured:
        assert after[pool]["on_tick"] == before[pool]["on_tick"], pool
        for name in ("fds", "threads", "timers"):
            assert after[pool][name] <= before[pool][name] + 2, (pool, name, before, after)
    fleet.assert_alive()


# ── suspended ─────────────────────────────────────────────────────────────────────────────────


@pools("prefork", long=["threads"])
def test_a_suspended_worker_comes_back_too_late(at: Place, pool: str) -> None:
    first = at.worker(pool, 1, **OPTIONS).ready()
    one = at.send("work", 1.0)
    at.ledger.await_starts(one)
    first.freeze()
    second = at.worker("threads", 1, **OPTIONS).ready()
    at.ledger.await_starts(one, times=2)
    at.await_empty()
    first.thaw()
    first.await_log("too late|lost the lease")
    after = at.send_many(4, "work", 0.2)
    at.ledger.await_ends(after)
    at.await_empty()
    assert first.alive
    assert second.alive
    assert len([x for x in first.log.splitlines() if "too late" in x or "lost the lease" in x]) == 1
    assert "Traceback" not in first.log
    assert at.state().dead == 0
    await_true("both to work", lambda: at.ledger.starts()[one] == 2)


@pools("prefork", "solo", "gevent")
def test_what_a_suspended_worker_had_not_begun_is_not_begun(at: Place, pool: str) -> None:
    """None that another has done meanwhile. A child of prefork runs on, and asks for the next."""
    _suspended(at, at.worker(pool, 1, **OPTIONS).ready())


@pytest.mark.parametrize(
    ("more", "before"),
    [({"worker_max_tasks_per_child": 1}, 2), ({"worker_pool_putlocks": False}, 0)],
)
def test_nor_where_the_pool_is_handed_more_than_it_has_children(
    at: Place, more: dict[str, Any], before: int
) -> None:
    """Celery 5.7 counts each child that ends as one more that is free; the option has no limit."""
    options = OPTIONS | more | {"worker_prefetch_multiplier": 16}
    _suspended(at, at.worker("prefork", 1, **options).ready(), before)


def _suspended(at: Place, worker: Worker, before: int = 0) -> None:
    worker.freeze()  # so that it claims them at once
    at.send_many(before, "work")
    ids = at.send_many(4, "work", 0.5)
    worker.thaw()
    at.ledger.await_starts(ids[0], seconds=30)  # Celery replaces a child within five seconds
    at.await_state(lambda s: s.unacked == 4)
    worker.freeze()
    queue = Queue("celery", at.engine(lease=LEASE))
    others: list[Message] = []

    def all_are_claimed() -> bool:
        others.extend(queue.claim_many(9))
        return len(others) == 4

    await_true("its leases to end", all_are_claimed)
    queue.ack_many(others)
    worker.thaw()
    after = at.send("work")
    at.ledger.await_ends(after, seconds=30)
    at.await_empty()
    starts = at.ledger.starts()
    assert [starts[one] for one in ids] == [1, 0, 0, 0]
    assert worker.alive
