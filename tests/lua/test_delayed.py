"""Delayed messages: kept by the server, handed out on time, cancelled by id."""

from __future__ import annotations

import pytest

from atomq import calls
from atomq.calls import Verdict
from atomq.errors import InvalidArgument
from tests.lua.rig import Queue, names

DONE, LOST, UNKNOWN = Verdict.DONE, Verdict.LOST, Verdict.UNKNOWN


def test_cancelled_is_gone(q: Queue) -> None:
    q.put("a", "b", delay_ms=60_000)
    assert q.run(calls.cancel(q.keys, ["a", "nobody", "a"])) == [DONE, LOST, LOST]
    assert q.places() == {"b": "delayed"}
    assert q.stats["cancelled"] == 1


def test_cancelling_nothing_changes_nothing(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    q.put("ready")
    stored = q.rig.snapshot()
    assert q.run(calls.cancel(q.keys, ["ready", ""])) == [LOST, LOST]
    assert q.rig.snapshot() == stored


def test_a_repeated_cancel_is_unknown(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    call = calls.cancel(q.keys, ["a"])
    q.run(call)
    assert q.run(call.again()) == [UNKNOWN]


def test_a_cancelled_id_may_be_put_again(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    q.run(calls.cancel(q.keys, ["a"]))
    assert q.put("a", delay_ms=60_000).count == 1


def test_what_was_claimed_cannot_be_cancelled(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    q.fall_due()
    q.take()
    assert q.run(calls.cancel(q.keys, ["a"])) == [LOST]
    assert q.places() == {"a": "unacked"}


def test_half_an_entry_is_cancelled_too(q: Queue) -> None:
    q.db.hset(q.keys.delayed_records, "ghost", "1 1 1 {}")
    assert q.run(calls.cancel(q.keys, ["ghost"])) == [DONE]
    assert not q.db.exists(q.keys.delayed_records)


def test_a_thousand_cancelled(q: Queue) -> None:
    q.put(*range(1000), delay_ms=60_000)
    ids = [str(i) for i in range(1000)]
    with pytest.raises(InvalidArgument):
        calls.cancel(q.keys, [*ids, "more"])
    assert set(q.run(calls.cancel(q.keys, ids))) == {DONE}
    assert q.delayed == {}


def test_due_order_is_by_time_and_not_by_arrival(q: Queue) -> None:
    for name, ms in (("c", 3000), ("a", 1000), ("b", 2000)):
        q.put(name, delay_ms=ms)
    q.fall_due()
    assert names(q.take(2) + q.take(2)) == ["a", "b", "c"]


@pytest.mark.parametrize("step", [1, 2])
def test_due_to_the_millisecond(q: Queue, step: int) -> None:
    """Not before its time, and by the first claim after it."""
    for _ in range(5):
        due = q.put_off("a", 8, step=step)
        while not (got := q.claim()).deliveries:
            assert got.now_ms < due
        assert got.now_ms >= due
        q.run(calls.ack(q.keys, [got.deliveries[0].receipt]))


def test_what_is_cancelled_leaves_nothing_behind(q: Queue) -> None:
    """Not the id, which would refuse the next message that has it; no result, no time to mind."""
    q.put("a", "b", delay_ms=60_000, dedup=True)
    q.claim(by="minds")
    for each in ("a", "b", "done"):
        q.db.set(q.keys.result(each), "old", px=60_000)
    assert q.run(calls.cancel(q.keys, ["a", "done"])) == [Verdict.DONE, Verdict.LOST]
    assert [q.result(each) for each in ("a", "b", "done")] == [None, b"old", b"old"]
    assert q.meta["timer_by"] == "minds"
    assert q.run(calls.cancel(q.keys, ["b"])) == [Verdict.DONE]
    assert not {"timer_at", "timer_by"} & set(q.meta)
    assert q.put("a", "b", dedup=True).known == ()
    assert q.stats["cancelled"] == 2
