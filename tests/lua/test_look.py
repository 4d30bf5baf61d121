"""`look`: one script a second says for all consumers of a queue whether a claim would find work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from atomq import calls
from tests.lua.rig import Queue, Rig
from tests.servers import wait_until


def look(q: Queue, by: str = "me", **more: Any) -> bool:
    """Whether there is something to claim."""
    found = q.run(calls.look([q.keys], by, **({"renew_ms": 20_000} | more)))
    assert found in ((), (q.name,))
    return bool(found)


def held(q: Queue, step: int = 1) -> str:
    """The receipt of a message that a consumer holds."""
    q.put("held", step=step)
    receipt: str = q.take()[0].receipt
    assert not look(q)
    return receipt


def expired(q: Queue) -> None:
    q.pass_one_lease(held(q))


def expired_low(q: Queue) -> None:
    receipt = held(q, step=3)
    q.db.zincrby(q.keys.unacked, -100_000, receipt)


def apart(q: Queue) -> None:
    receipt = held(q)
    q.db.zadd(q.keys.unacked, {receipt: 10 * (1 << 42) + q.now() + 60_000})


def due(q: Queue) -> None:
    q.put("later", delay_ms=60_000)
    assert q.claim().wait_ms
    assert not look(q), "it is minded when that falls due"
    q.pass_one(60_000, ["later"])


def due_low(q: Queue) -> None:
    q.put("later", delay_ms=60_000, step=4)
    q.claim()
    assert not look(q)
    q.pass_one(60_000, ["later"])


def unminded(q: Queue) -> None:
    q.put("later", delay_ms=60_000)


def minded_too_late(q: Queue) -> None:
    q.put("later", delay_ms=60_000)
    q.claim()
    q.put("sooner", delay_ms=30_000)


def handed_over(q: Queue) -> None:
    q.put("later", delay_ms=60_000)
    q.claim()
    q.claim(0)


@pytest.mark.parametrize(
    "make",
    [
        *[pytest.param(lambda q, n=n: q.put("x", step=n), id=f"ready {n}") for n in range(1, 5)],
        expired,
        expired_low,
        apart,
        due,
        due_low,
        unminded,
        minded_too_late,
        handed_over,
    ],
)
def test_it_finds_whatever_a_claim_would(q: Queue, make: Callable[[Queue], None]) -> None:
    q.claim()
    assert not look(q)
    make(q)
    assert look(q)
    assert not q.db.exists(q.keys.looked)


def test_of_several_queues_it_names_those_with_something_to_do(rig: Rig) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a look has one queue")
    queues = [rig.queue(name) for name in "abc"]
    queues[1].put("x")
    keys = [queue.keys for queue in queues]
    assert rig.engine.run(calls.look(keys, "me", renew_ms=20_000)) == ("b",)


def test_a_paused_queue_has_nothing_to_claim(q: Queue) -> None:
    q.put("x")
    q.run(calls.pause(q.keys))
    assert not look(q)


def test_who_waits_hears_of_a_look_that_found_nothing(q: Queue) -> None:
    with q.db.pubsub(ignore_subscribe_messages=True) as ear:
        if q.keys.sharded:
            if q.rig.server.version < (7,):
                pytest.skip("it has no sharded channels: each consumer looks for itself")
            ear.ssubscribe(q.keys.looked)
        else:
            ear.subscribe(q.keys.looked)
        heard: list[str] = []

        def hear() -> list[str]:
            while message := ear.get_message(timeout=0.05):
                heard.append(message["data"].decode())
            return heard

        hear()
        assert not look(q, "me")
        wait_until("it to be heard", hear)
        assert not look(q, "")
        q.put("x")
        assert look(q, "other")
        assert hear() == ["me"]


# ── the time it notes ─────────────────────────────────────────────────────────────────────────


def test_a_second_look_writes_nothing(q: Queue) -> None:
    look(q)
    before = q.rig.snapshot()
    assert not look(q)
    assert q.rig.snapshot() == before


@pytest.mark.parametrize(("age", "writes"), [(4_900, False), (5_100, True)])
def test_it_notes_the_time_four_times_in_a_renewal(q: Queue, age: int, writes: bool) -> None:
    q.claim()
    q.db.hset(q.keys.meta, "seen", q.now() - age)
    look(q)
    assert (q.now() - int(q.db.hget(q.keys.meta, "seen")) < 1000) is writes


def test_the_shortest_renewal_that_is_in_use_says_how_often(q: Queue) -> None:
    q.put("x")
    q.take(lease_ms=3_000)
    q.db.hset(q.keys.meta, "seen", q.now() - 300)
    look(q)
    assert q.now() - int(q.db.hget(q.keys.meta, "seen")) < 200


def test_after_an_outage_it_begins_the_grace(q: Queue) -> None:
    receipt = held(q)
    q.db.hset(q.keys.meta, "seen", q.now() - 100_000)
    q.pass_one_lease(receipt)
    assert not look(q), "its holder may live"
    assert int(q.db.hget(q.keys.meta, "grace")) > q.now()
    assert q.take() == []
    q.db.hset(q.keys.meta, mapping={"grace": q.now() - 1})
    assert look(q)


def test_what_a_clock_that_was_set_back_left_is_for_a_claim(q: Queue) -> None:
    q.claim()
    q.db.hset(q.keys.meta, mapping={"seen": q.now() + 60_000, "quiet": q.now() + 60_250})
    assert look(q)
    q.claim()
    assert not look(q)


# ── a claim of a queue in which there is nothing ──────────────────────────────────────────────


def _commands(q: Queue) -> int:
    stats: Any = q.db.info("commandstats")
    return sum(each["calls"] for each in stats.values())


def test_a_claim_of_nothing_is_short_and_says_the_same(q: Queue) -> None:
    q.put("x", "y")
    q.run(calls.ack(q.keys, [each.receipt for each in q.take()]))
    q.claim()
    before = _commands(q)
    claimed = q.claim()
    assert _commands(q) - before <= 8, "itself and the question among them"
    assert claimed._replace(now_ms=0) == calls.Claimed(0, None, (), (), [])


def test_a_token_for_nothing_is_taken_away_by_a_claim(q: Queue) -> None:
    q.claim()
    q.db.rpush(q.keys.wake, "1")
    q.claim()
    assert not q.db.exists(q.keys.wake)
