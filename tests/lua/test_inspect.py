"""inspect, peek, pause: what is seen, without a trace."""

from __future__ import annotations

from typing import Any

import pytest

from atomq import calls
from atomq.calls import Rejection
from atomq.errors import InvalidArgument
from tests.lua.rig import Queue, msg, name_of, names


def filled(q: Queue) -> None:
    q.put("dead")
    q.run(calls.reject(q.keys, [Rejection(q.take()[0].receipt, "dead", "failed", "why\nso")]))
    q.put("held", "late", step=2)
    q.take(1)
    q.take(1, lease_ms=1)
    q.pass_time(1000)
    q.put("a", "b")
    q.put("low", step=4)
    q.put("soon", delay_ms=30_000)
    q.put("due", delay_ms=30_000, step=3)
    q.db.zincrby(q.keys.delayed, -31_000, "due")


def test_numbers(q: Queue) -> None:
    filled(q)
    state = q.run(calls.inspect(q.keys))
    assert (state.ready, state.ready_by_priority) == (3, {0: 2, 3: 0, 6: 0, 9: 1})
    assert (state.unacked, state.expired) == (2, 1)
    assert (state.delayed, state.due, state.dead) == (2, 1, 1)
    assert state.next_due_ms == q.delayed["due"].deadline
    assert state.next_deadline_ms == min(lease.deadline for lease in q.unacked.values())
    assert state.oldest == msg("a")
    assert (state.paused, state.inconsistent) == (False, 0)
    assert state.stats["published"] == 8
    assert abs(state.now_ms - q.now()) < 1000


def test_an_empty_queue(q: Queue) -> None:
    state = q.run(calls.inspect(q.keys))
    assert (state.ready, state.unacked, state.delayed, state.dead) == (0, 0, 0, 0)
    assert (state.next_due_ms, state.next_deadline_ms, state.oldest) == (None, None, b"")
    assert q.db.keys() == []


def test_halves_are_reported(q: Queue) -> None:
    q.db.hset(q.keys.records, "ghost", "1 1 1 {}")
    q.db.zadd(q.keys.delayed, {"ghost": 1})
    assert q.run(calls.inspect(q.keys)).inconsistent == 2


@pytest.mark.parametrize("part", ["ready", "delayed", "unacked", "dead"])
def test_looking_leaves_no_trace(q: Queue, part: Any) -> None:
    filled(q)
    stored = q.rig.snapshot()
    q.run(calls.inspect(q.keys))
    q.run(calls.peek(q.keys, part))
    assert q.rig.snapshot() == stored


def test_peek_ready_in_the_order_of_claims(q: Queue) -> None:
    filled(q)
    found = q.run(calls.peek(q.keys, "ready"))
    assert names([each.raw for each in found]) == ["a", "b", "low"]
    assert [(each.step, each.name, each.time_ms, each.deliveries) for each in found] == [
        (1, "", None, 0),
        (1, "", None, 0),
        (4, "", None, 0),
    ]
    for offset, wanted in ((1, ["b", "low"]), (2, ["low"]), (3, [])):
        found = q.run(calls.peek(q.keys, "ready", offset=offset))
        assert names([each.raw for each in found]) == wanted
    assert len(q.run(calls.peek(q.keys, "ready", limit=2))) == 2


def test_peek_ready_counts_deliveries(q: Queue) -> None:
    q.put("a")
    q.run(calls.release(q.keys, [(q.take()[0].receipt, "a")]))
    assert q.run(calls.peek(q.keys, "ready"))[0].deliveries == 1


def test_peek_unacked_shows_holder_age_and_deliveries(q: Queue) -> None:
    q.put("a", step=2)
    (got,) = q.take(by="deadbeef")
    (seen,) = q.run(calls.peek(q.keys, "unacked"))
    lease = q.unacked[got.receipt]
    assert (seen.name, seen.holder) == (got.receipt, "deadbeef")
    assert (seen.time_ms, seen.since_ms) == (lease.deadline, lease.since)
    assert (seen.deliveries, seen.step, seen.raw) == (1, 2, msg("a"))


def test_peek_delayed(q: Queue) -> None:
    filled(q)
    found = q.run(calls.peek(q.keys, "delayed"))
    assert [each.name for each in found] == ["soon", "due"]
    assert [each.time_ms for each in found] == [q.delayed[n].deadline for n in ("soon", "due")]
    assert [each.step for each in found] == [1, 3]
    assert [each.name for each in q.run(calls.peek(q.keys, "delayed", offset=1))] == ["due"]


def test_peek_at_some_by_their_ids(q: Queue) -> None:
    q.put("a", "b", "c", delay_ms=60_000)
    found = q.run(calls.peek(q.keys, "delayed", ids=["c", "nobody", "a"]))
    assert [each.name for each in found] == ["c", "a"]
    assert found == q.run(calls.peek(q.keys, "delayed"))[::-2]
    assert q.run(calls.peek(q.keys, "unacked", ids=["c"])) == []
    for part in ("ready", "dead"):
        with pytest.raises(InvalidArgument, match="id"):
            q.run(calls.peek(q.keys, part, ids=["a"]))


def test_peek_dead_page_by_page(q: Queue) -> None:
    filled(q)
    (letter,) = q.run(calls.peek(q.keys, "dead"))
    (stored,) = q.dead
    assert (letter.name, letter.reason, letter.detail) == (stored.id, "failed", "why\nso")
    assert letter.time_ms == int(stored.id.partition("-")[0])
    assert name_of(letter.raw) == "dead"
    assert q.run(calls.peek(q.keys, "dead", after=letter.name)) == []


@pytest.mark.parametrize("part", ["ready", "delayed", "unacked", "dead"])
def test_bytes_stop_a_look(q: Queue, part: Any) -> None:
    q.put(*[msg(i, size=1000) for i in range(4)], delay_ms=60_000 * (part == "delayed"))
    if part in ("unacked", "dead"):
        got = q.take()
        if part == "dead":
            q.run(calls.reject(q.keys, [Rejection(each.receipt, "", "r") for each in got]))
    assert len(q.run(calls.peek(q.keys, part, max_bytes=1500))) == 2


def test_a_part_that_does_not_exist(q: Queue) -> None:
    with pytest.raises(InvalidArgument, match="part"):
        q.run(calls.peek(q.keys, "nothing"))  # type: ignore[arg-type]
    q.db.xadd(q.keys.dead, {"a": 1})
    with pytest.raises(InvalidArgument, match="after"):
        q.run(calls.peek(q.keys, "dead", after="x"))


# ── pause ─────────────────────────────────────────────────────────────────────────────────────


def test_pause_and_resume(q: Queue) -> None:
    q.put("a")
    assert q.run(calls.pause(q.keys)) is False
    assert q.tokens == 0
    assert q.run(calls.pause(q.keys)) is True
    q.put("b")
    assert (q.take(), q.tokens) == ([], 0)
    assert q.run(calls.inspect(q.keys)).paused is True
    assert q.run(calls.pause(q.keys, paused=False)) is True
    assert q.tokens == 1
    assert names(q.take()) == ["a", "b"]
    assert q.run(calls.pause(q.keys, paused=False)) is False


def test_a_paused_queue_lets_its_holders_finish(q: Queue) -> None:
    q.put("a", "b", "c")
    got = q.take()
    q.run(calls.pause(q.keys))
    done = calls.Verdict.DONE
    assert q.run(calls.ack(q.keys, [got[0].receipt])) == [done]
    assert q.run(calls.extend(q.keys, [got[1].receipt], lease_ms=1000)) == [done]
    assert q.run(calls.release(q.keys, [(got[2].receipt, "c")])) == [done]
    assert q.places() == {"b": "unacked", "c": "ready"}
