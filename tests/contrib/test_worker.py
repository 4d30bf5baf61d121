"""Whatever else a Celery worker does: control, events, gossip, limits, beat; and what it leaves."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest
from celery.canvas import chord

from tests.contrib.rig import ON_ONE_KIND, POOLS, Fleet, Place, await_true, pools
from tests.servers import assert_only_keys

pytestmark = [pytest.mark.slow, ON_ONE_KIND]


def test_every_pool_answers(fleet: Fleet) -> None:
    names = {worker.name for worker in fleet.of.values()}
    inspect = fleet.app.control.inspect(timeout=5, limit=len(names))
    assert set(inspect.ping()) == names
    for question in ("stats", "registered", "active", "reserved", "active_queues", "conf"):
        answers = getattr(inspect, question)()
        assert set(answers) == names, question
    queues = {name: [q["name"] for q in found] for name, found in inspect.active_queues().items()}
    assert queues == {fleet.of[pool].name: [pool] for pool in POOLS}
    # A question that nobody fetches the answers of leaves lists that end by themselves.
    fleet.app.control.broadcast("ping", reply=False)
    fleet.app.control.broadcast("ping", reply=True, timeout=0.0)
    fleet.app.close()
    left = list(fleet.db.scan_iter("*.reply.celery.pidbox"))
    assert all(0 < fleet.db.pttl(key) <= 60_000 for key in left), left
    allowed = [*POOLS, *(f"_atomq.{{{pool}}}.*" for pool in POOLS), "_kombu.*", "_atomq.register{*"]
    assert_only_keys(fleet.db, [*allowed, "*.reply.celery.pidbox"])


def test_retries_chords_and_results(fleet: Fleet) -> None:
    for pool in ("prefork", "threads", "gevent"):
        flaky = fleet.send("flaky", queue=pool)
        assert fleet.result(flaky) == "well"
        assert fleet.ledger.starts()[flaky] == 3
        work = fleet.reader.tasks["work"]
        steps = [work.s(0, n).set(queue=pool) for n in range(5)]
        result = chord(steps)(fleet.reader.tasks["collected"].s().set(queue=pool))
        assert sorted(fleet.result(result.id)) == [0, 1, 2, 3, 4]
    fleet.await_all_empty()


def test_a_rate_limit_holds_them_here_and_loses_none(fleet: Fleet) -> None:
    ids = fleet.send_many(8, "limited", queue="threads")
    fleet.ledger.await_starts(ids)
    starts = sorted(fleet.ledger.started(one)[0] for one in ids)
    assert starts[-1] - starts[0] >= 1.0  # 5 a second
    assert max(fleet.ledger.starts()[one] for one in ids) == 1
    fleet.app.control.rate_limit("limited", "0", destination=[fleet.of["threads"].name])
    fleet.await_empty(queue="threads")


def test_revoked_before_it_runs_and_while_it_runs(fleet: Fleet) -> None:
    control = fleet.app.control
    first = fleet.send_many(2, "work", 30, queue="prefork")
    fleet.ledger.await_starts(first)
    waiting = fleet.send("work", queue="prefork")
    control.revoke(waiting)
    # They are acked: who is terminated is revoked.
    control.revoke(first, terminate=True, signal="SIGKILL")
    for one in [*first, waiting]:
        assert fleet.outcome(one)["status"] == "REVOKED"
    fleet.await_empty(queue="prefork")
    assert fleet.ledger.starts()[waiting] == 0
    assert fleet.state("prefork").dead == 0


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_consumers_come_and_go_with_work_queued(fleet: Fleet, pool: str) -> None:
    control, name = fleet.app.control, fleet.of[pool].name
    inspect = control.inspect([name], timeout=5)
    for _ in range(2):
        ids = fleet.send_many(5, "work", queue="extra")
        control.add_consumer("extra", destination=[name], reply=True, timeout=5)
        fleet.ledger.await_starts(ids)
        fleet.await_empty(queue="extra")
        control.cancel_consumer("extra", destination=[name], reply=True, timeout=5)
        await_true(
            "it to be cancelled",
            lambda: [q["name"] for q in inspect.active_queues()[name]] == [pool],
        )
        more = fleet.send_many(5, "work", queue="extra")
        fleet.ledger.await_starts(fleet.send("early", queue=pool))
        assert fleet.state("extra").ready == 5
        assert not any(fleet.ledger.starts()[one] for one in more)
        assert fleet.app.connection().default_channel.queue_purge("extra") == 5
    assert fleet.state("extra").ready + fleet.state("extra").unacked == 0


def test_purge_takes_what_waits(at: Place) -> None:
    at.send_many(5, "work")
    always = at.make_app(broker_transport_options={"delay_in_server": "always"})
    at.send("work", countdown=60, app=always)
    assert at.app.control.purge() == 6
    assert at.state().ready + at.state().delayed == 0


def test_events_are_seen(fleet: Fleet) -> None:
    events: list[dict[str, Any]] = []
    stop = threading.Event()

    def capture() -> None:
        app = fleet.make_app()
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": events.append})
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue
                except connection.connection_errors:
                    return  # the test is over, and the server was cleared for the next one

    listener = threading.Thread(target=capture, daemon=True)
    listener.start()
    try:
        await_true("heartbeats", lambda: {e["type"] for e in events} & {"worker-heartbeat"})
        fleet.app.control.enable_events(reply=True, timeout=5, limit=len(POOLS))
        ids = fleet.each("work")
        await_true(
            "what became of the tasks",
            lambda: (
                {e["uuid"] for e in events if e["type"] == "task-succeeded"} >= set(ids.values())
            ),
        )
        told = {(e["type"], e.get("uuid")) for e in events}
        for one in ids.values():
            assert ("task-received", one) in told
            assert ("task-started", one) in told
    finally:
        stop.set()
        fleet.app.control.disable_events(reply=True, timeout=5, limit=len(POOLS))
    listener.join(5)


def test_workers_know_each_other(at: Place) -> None:
    # Without an argument the workers of these tests do not mingle; these do.
    one = at.worker("solo", args=("--loglevel=DEBUG",)).ready()
    at.app.control.revoke("00000000-0000-0000-0000-000000000000")
    await_true(
        "it to be revoked",
        lambda: at.app.control.inspect([one.name], timeout=3).revoked()[one.name],
    )
    two = at.worker("threads", args=("--loglevel=DEBUG",)).ready()
    assert "mingle: sync with 1 nodes" in two.log
    assert at.app.control.inspect([two.name], timeout=3).revoked()[two.name] == [
        "00000000-0000-0000-0000-000000000000"
    ]
    one.await_log(f"{two.name} joined the party")
    two.stop()
    one.await_log(f"{two.name} left")


def test_autoscale_and_disabled_prefetch(at: Place) -> None:
    worker = at.worker(
        "prefork", queues="one", args=("--autoscale=3,1", "--without-mingle")
    ).ready()
    # (In threads Celery asks for as many as there are threads, and there are none before a task.)
    single = at.worker("prefork", 2, queues="two", worker_disable_prefetch=True).ready()
    many = at.send_many(6, "work", 1.0, queue="one")
    some = at.send_many(6, "work", 0.5, queue="two")
    at.ledger.await_starts(some[:2])
    state = at.state("two")
    # As many as it runs, and no more.
    assert (state.unacked, state.ready) == (2, 4)
    at.ledger.await_ends([*many, *some])
    used = {e.pid for e in at.ledger.events() if e.id in many}
    assert 2 <= len(used) <= 3
    assert set(at.ledger.starts().values()) == {1}
    assert single.alive
    assert worker.alive


@pools("prefork", "threads", long=["gevent"])
def test_no_place_is_idle_while_a_task_waits(at: Place, pool: str) -> None:
    """Also if there is only little room: most of what it may hold runs, and goes on doing so."""
    worker = at.worker(pool, 4, worker_prefetch_multiplier=1).ready()
    long = at.send_many(3, "work", 6.0)
    at.ledger.await_starts(long)
    for _ in range(2):
        one = at.send("work")
        at.ledger.await_ends(one, 2)
    assert worker.alive


def test_a_solo_worker_acks_each_task_when_it_is_done(at: Place) -> None:
    """Not when all of those are done that were claimed together; and it hears what it is told."""
    worker, pong = at.worker("solo").ready(), {"ok": "pong"}
    assert at.app.control.ping(timeout=10, limit=1) == [{worker.name: pong}]
    ids = at.send_many(4, "work", 1.0)
    at.ledger.await_starts(ids[:1])
    at.ledger.await_ends(ids[:1])
    at.await_state(lambda s: s.ready + s.unacked == 3, 0.5)
    assert at.app.control.ping(timeout=10, limit=1) == [{worker.name: pong}]
    assert len(at.ledger.ends()) < 4
    at.ledger.await_ends(ids)
    at.await_empty()
    assert set(at.ledger.starts().values()) == {1}


@pools("gevent", long=["eventlet"])
def test_a_green_worker_acks_each_task_when_it_is_done(at: Place, pool: str) -> None:
    """Celery lets it do so between two messages only, and the next may come in a second."""
    worker = at.worker(pool, 2, worker_prefetch_multiplier=1).ready()
    ids = at.send_many(40, "work")
    at.ledger.await_ends(ids)
    times = [e.at for e in at.ledger.events()]
    assert max(times) - min(times) < 5, "a place was not filled again when it was free"
    one = at.send("work", 0.5)
    at.ledger.await_ends(one)
    at.await_empty(0.5)
    # Only the worker itself looks so often. A task that waits for a message waits.
    assert at.result(at.send("listens", 0.5)) >= 0.5
    assert worker.alive


def test_beat_sends_every_second(at: Place) -> None:
    at.worker("solo").ready()
    at.worker(role="beat")
    await_true("three ticks", lambda: len(at.ledger.starts()) >= 3, 20)
    ticks = sorted(e.at for e in at.ledger.events() if e.what == "start")
    for a, b in itertools.pairwise(ticks[:3]):
        assert b - a == pytest.approx(1.0, abs=0.4)


def test_an_idle_worker_is_quiet(fleet: Fleet) -> None:
    time.sleep(0.5)
    before = {pool: worker.cpu() for pool, worker in fleet.of.items()}
    asked = _asked(fleet)
    time.sleep(3)
    spent = {pool: round(worker.cpu() - before[pool], 2) for pool, worker in fleet.of.items()}
    rate = (_asked(fleet) - asked) / 3 / len(POOLS)
    print("processor seconds in 3 s:", spent, "requests a second and worker:", round(rate, 1))
    assert max(spent.values()) < 0.3, spent
    assert rate < 12


def _asked(fleet: Fleet) -> int:
    """How many requests of those that workers make the server has had."""
    stats = fleet.db.info("commandstats")
    names = ("evalsha", "brpop", "set", "publish", "client|tracking", "ping")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)
