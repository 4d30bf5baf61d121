"""extend: who holds goes on holding."""

from __future__ import annotations

import pytest

from atomq import calls
from atomq.calls import Verdict
from atomq.errors import InvalidArgument
from tests.lua.rig import Queue, name_of

DONE, LOST = Verdict.DONE, Verdict.LOST


def test_a_lease_runs_from_now_and_nothing_else_changes(q: Queue) -> None:
    q.put("a", step=3)
    (got,) = q.take()
    before = q.unacked[got.receipt]
    now = q.now()
    assert q.run(calls.extend(q.keys, [got.receipt], lease_ms=300_000)) == [DONE]
    after = q.unacked[got.receipt]
    assert now + 300_000 <= after.deadline <= q.now() + 300_000
    assert after._replace(deadline=0) == before._replace(deadline=0)


def test_extended_is_not_taken(q: Queue) -> None:
    q.put("a", "b")
    mine, other = q.take()
    q.expire()
    assert q.run(calls.extend(q.keys, [mine.receipt], lease_ms=60_000)) == [DONE]
    (taken,) = q.take(by="thief")
    assert name_of(taken) == name_of(other)


def test_shorter_too(q: Queue) -> None:
    q.put("a")
    (got,) = q.take()
    q.run(calls.extend(q.keys, [got.receipt], lease_ms=0))
    assert len(q.take(by="heir")) == 1


def test_what_is_not_held_comes_not_to_life(q: Queue) -> None:
    q.put("a")
    (got,) = q.take()
    q.run(calls.ack(q.keys, [got.receipt]))
    call = calls.extend(q.keys, [got.receipt, "never"], lease_ms=60_000)
    assert q.run(call) == [LOST, LOST]
    assert q.unacked == {}


def test_named_twice_it_is_live_once(q: Queue) -> None:
    q.put("a")
    (got,) = q.take()
    call = calls.extend(q.keys, [got.receipt, got.receipt], lease_ms=60_000)
    assert q.run(call) == [DONE, LOST]


def test_after_somebody_took_it_the_lease_is_lost_for_good(q: Queue) -> None:
    q.put("a")
    (mine,) = q.take()
    q.expire()
    (theirs,) = q.take(by="heir")
    deadline = q.unacked[theirs.receipt].deadline
    assert q.run(calls.extend(q.keys, [mine.receipt], lease_ms=900_000)) == [LOST]
    assert q.unacked[theirs.receipt].deadline == deadline


def test_a_verdict_for_each_of_a_thousand(q: Queue) -> None:
    q.put(*range(999))
    held = [each.receipt for each in q.take(1000)]
    verdicts = q.run(calls.extend(q.keys, [*held[:500], "stale", *held[500:]], lease_ms=60_000))
    assert [i for i, verdict in enumerate(verdicts) if verdict is LOST] == [500]
    with pytest.raises(InvalidArgument):
        calls.extend(q.keys, [*held, "one", "two"], lease_ms=1)


def test_it_tells_the_queue_how_often_holders_renew(q: Queue) -> None:
    q.put("a")
    (got,) = q.take(lease_ms=3000)
    assert int(q.meta["renew"]) == 1000
    q.run(calls.extend(q.keys, [got.receipt], lease_ms=60_000))
    assert int(q.meta["renew"]) == 20_000
