"""What no worker can take goes to dead letters with the reason, and harms nobody."""

from __future__ import annotations

import json
import time
from typing import Any

import hypothesis
import pytest
from billiard.exceptions import WorkerLostError

from atomq import calls
from atomq.calls import QueueState
from tests.contrib import poison
from tests.contrib.rig import LONG, ON_ONE_KIND, POOLS, Fleet

pytestmark = [pytest.mark.slow, ON_ONE_KIND]


def _put(fleet: Fleet, pool: str, messages: list[bytes]) -> None:
    for first in range(0, len(messages), 100):
        fleet.db.lpush(pool, *messages[first : first + 100])


@pytest.fixture(autouse=True)
def _clear(fleet: Fleet) -> None:
    for pool in POOLS:
        fleet.engine().run(calls.purge(fleet.engine().keys(pool), dead=True, delayed=True))


def _at_rest(state: QueueState) -> bool:
    soon = state.next_due_ms is not None and state.next_due_ms < state.now_ms + 3000
    return state.ready + state.unacked == 0 and not soon


@pytest.mark.parametrize("pool", POOLS)
def test_every_known_kind_is_a_dead_letter(fleet: Fleet, pool: str) -> None:
    kinds = poison.kinds()
    before = fleet.send("early", queue=pool)
    _put(fleet, pool, list(kinds.values()))
    after = fleet.send("early", queue=pool)
    fleet.ledger.await_starts([before, after])
    try:
        fleet.await_empty(queue=pool)
    except AssertionError as error:
        raise AssertionError(f"{error}; {fleet.peek('unacked', pool)}") from None
    letters = fleet.peek("dead", pool)
    told = {letter.raw: letter for letter in letters}
    started = set(fleet.ledger.starts())
    kept = [name for name, raw in kinds.items() if raw in told]
    gone = [name for name, raw in kinds.items() if raw not in told]
    # Celery and kombu understand more than one would think; then it must have been run.
    run = [name for name in gone if json.loads(kinds[name])["headers"].get("id") in started]
    assert gone == run, [name for name in gone if name not in run]
    for name, raw in kinds.items():
        if raw not in told:
            continue
        letter = told[raw]
        assert letter.reason in ("undecodable", "rejected", "undeliverable"), name
        assert letter.detail or letter.reason == "undecodable", (name, letter.reason)
    assert fleet.of[pool].alive
    assert len(kept) >= 32
    print(
        {name: (told[raw].reason, told[raw].detail) for name, raw in kinds.items() if raw in told}
    )


def test_random_messages_harm_nobody(fleet: Fleet) -> None:
    found: list[bytes] = []

    @hypothesis.settings(max_examples=2000 if LONG else 150, database=None, deadline=None)
    @hypothesis.given(poison.fuzzed)
    def collect(raw: bytes) -> None:
        found.append(raw)

    collect()
    for pool in ("prefork", "threads", "gevent"):
        before = fleet.state(pool)
        _put(fleet, pool, found)
        after = fleet.send("early", queue=pool)
        fleet.ledger.await_starts(after, 30)
        # What claims a time far away is delayed, and that is right; others are tried three times.
        fleet.await_state(_at_rest, 30, pool)
        state = fleet.state(pool)
        settled = sum(state.stats.get(x, 0) - before.stats.get(x, 0) for x in ("acked", "dead"))
        assert settled + state.delayed >= len(found), state
        assert fleet.of[pool].alive


# ── rejected, and lost with the child that ran it ─────────────────────────────────────────────


def _dead(fleet: Fleet, pool: str) -> Any:
    fleet.await_state(lambda s: s.dead == 1 and s.unacked + s.ready == 0, queue=pool)
    (letter,) = fleet.peek("dead", pool)
    keys = fleet.engine().keys(pool)
    fleet.engine().run(calls.purge(keys, dead=True))
    return letter


def test_rejected_by_the_task(fleet: Fleet) -> None:
    for pool in ("prefork", "solo"):
        fleet.send("rejected", False, queue=pool)
        letter = _dead(fleet, pool)
        assert (letter.reason, letter.deliveries) == ("rejected", 1)
        assert "told to" in letter.detail
        again = fleet.send("rejected", True, queue=pool)
        letter = _dead(fleet, pool)
        # Delivered max_deliveries times, and no more.
        assert (letter.reason, letter.deliveries) == ("max_deliveries", 3)
        assert fleet.ledger.starts()[again] == 3
    # These are settled by an ack.
    done = [fleet.send(name, queue="prefork") for name in ("ignored", "failing")]
    fleet.ledger.await_starts(done)
    fleet.await_empty(queue="prefork")
    assert fleet.state("prefork").dead == 0


@pytest.mark.parametrize("name", ["unsent", "refused"])
def test_a_dead_letter_says_what_its_task_failed_of(fleet: Fleet, name: str) -> None:
    """Celery rejects it a moment later, in prefork and threads in another thread, with others."""
    words = [f"{name}{number}" for number in range(4)]
    sent = {fleet.send(name, word, queue=pool): (pool, word) for pool in POOLS for word in words}
    letters = {}
    for pool in POOLS:
        fleet.await_state(lambda s: s.dead == len(words) and s.unacked + s.ready == 0, queue=pool)
        for letter in fleet.peek("dead", pool):
            assert letter.reason == "rejected"
            letters[json.loads(letter.raw)["headers"]["id"]] = letter.detail
    assert {one: word for one, (_, word) in sent.items() if word not in letters[one]} == {}


@pytest.mark.parametrize("how", ["kill", pytest.param("exit", marks=pytest.mark.long)])
def test_a_task_that_kills_its_child_ends(fleet: Fleet, how: str) -> None:
    began = time.monotonic()
    one = fleet.send("deadly", how, queue="prefork")
    fleet.await_state(lambda s: s.dead == 1, 20, "prefork")
    letter = _dead(fleet, "prefork")
    assert (letter.reason, letter.deliveries) == ("max_deliveries", 3)
    assert fleet.ledger.starts()[one] == 3
    after = fleet.send("early", queue="prefork")
    fleet.ledger.await_starts(after)
    print(f"{time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool != "solo"])
def test_a_task_that_ends_by_no_exception_fails(fleet: Fleet, pool: str) -> None:
    """Stock's threads and greenlets forget it: no result, and unacked until the worker ends."""
    hows = ("exit", "interrupt") if pool == "prefork" else ("exit", "interrupt", "cancel")
    for one in [fleet.send("leaving", how, queue=pool) for how in hows]:
        assert fleet.outcome(one)["status"] == "FAILURE"
        with pytest.raises(WorkerLostError):
            fleet.result(one)
        assert fleet.ledger.starts()[one] == 1
    fleet.await_empty(queue=pool)
    assert fleet.state(pool).dead == 0


def test_what_a_task_sees_of_its_deliveries(fleet: Fleet) -> None:
    for pool in ("prefork", "gevent"):
        one = fleet.send("info", queue=pool)
        seen = fleet.result(one)
        assert seen["redelivered"] is False
        assert seen["count"] == 1
        # Delivered once before, by somebody who let the lease run out.
        engine = fleet.engine(lease=60.0)
        keys = engine.keys("elsewhere")
        two = fleet.send("info", queue="elsewhere")
        (held,) = engine.run(
            calls.claim([keys], f"t-{time.monotonic_ns()}", limit=1, lease_ms=1)
        ).deliveries
        engine.run(calls.release(keys, [(held.receipt, "")]))
        raw = fleet.db.rpop("elsewhere")
        assert raw is not None
        fleet.db.lpush(pool, raw)
        seen = fleet.result(two)
        assert seen["redelivered"] is True
        assert seen["count"] == 2
        assert "x-delivery-count" not in seen["headers"]
