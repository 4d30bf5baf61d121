"""release: back to ready at either end, or to delayed, counted or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Verdict
from atomq.errors import InvalidArgument
from tests.lua.rig import BAND, Queue, Rig, msg, name_of, names

DONE, LOST, AGAIN, UNKNOWN = Verdict.DONE, Verdict.LOST, Verdict.AGAIN, Verdict.UNKNOWN


def release(q: Queue, got: list[Any], **more: Any) -> list[Verdict]:
    items = [(each.receipt, name_of(each)) for each in got]
    return q.run(calls.release(q.keys, items, **more))  # type: ignore[no-any-return]


def test_at_the_back(q: Queue) -> None:
    q.put("a", "b", "c", step=2)
    assert release(q, q.take(2)) == [DONE, DONE]
    assert names(q.ready) == ["c", "a", "b"]
    assert q.unacked == {}
    assert q.stats["released"] == 2


def test_at_the_front_in_the_order_named(q: Queue) -> None:
    q.put("a", "b", "c")
    release(q, q.take(2), front=True)
    assert names(q.ready) == ["a", "b", "c"]


def test_each_to_its_own_step(q: Queue) -> None:
    q.put("low", step=4)
    q.put("high")
    release(q, q.take(), front=True)
    assert names([q.db.lindex(q.keys.ready[3], 0), q.db.lindex("q", 0)]) == ["low", "high"]


def test_counted_writes_the_count_and_not_counted_leaves_the_bytes(q: Queue) -> None:
    q.put("a", "b")
    got = q.take()
    release(q, got[:1], counted=True)
    release(q, got[1:], counted=False)
    assert q.ready == [b'{"x-deliveries":1,' + msg("a")[1:], msg("b")]


def test_uncounted_twenty_times_never_dies(q: Queue) -> None:
    """A graceful stop gives back what it had not begun; twenty deploys must not bury it."""
    q.put("a")
    for _ in range(20):
        (got,) = q.take(max_deliveries=2)
        assert got.deliveries == 1
        release(q, [got], counted=False, front=True)
    assert q.ready == [msg("a")]


def test_the_count_is_replaced_and_expiry_kept(q: Queue) -> None:
    q.put("a", ttl_ms=60_000)
    expires = json.loads(q.ready[0])["x-expires"]
    for n in (1, 2, 3):
        release(q, q.take())
        (raw,) = q.ready
        head = b'{"x-deliveries":%d,"x-expires":%d,' % (n, expires)
        assert raw == head + msg("a")[1:]


def test_for_a_while(q: Queue) -> None:
    q.put("a", step=3)
    before = q.now()
    release(q, q.take(), delay_ms=5000)
    ((name, held),) = q.delayed.items()
    assert (name, held.step, held.deliveries, held.raw) == ("a", 3, 1, msg("a"))
    assert before + 5000 <= held.deadline <= q.now() + 5000
    q.fall_due()
    assert q.take()[0].deliveries == 2


def test_uncounted_for_a_while(q: Queue) -> None:
    q.put("a")
    release(q, q.take(), delay_ms=5000, counted=False)
    q.fall_due()
    assert q.take()[0].deliveries == 1


def test_for_ever_stays_in_its_own_priority(q: Queue) -> None:
    """Beyond its band a due time would be another step's, and due at once."""
    q.put("a")
    release(q, q.take(), delay_ms=BAND - 1)
    assert q.delayed["a"].deadline == BAND - 1
    assert q.take() == []


def test_names_that_are_taken_overwrite_nobody(q: Queue) -> None:
    """Two messages of one id, and one with none, are delayed under their receipts."""
    q.put("same", delay_ms=60_000)
    q.put("x", "y", "z")
    got = q.take(3)
    items = [(got[0].receipt, "same"), (got[1].receipt, ""), (got[2].receipt, "new")]
    assert q.run(calls.release(q.keys, items, delay_ms=1000)) == [DONE] * 3
    assert set(q.delayed) == {"same", got[0].receipt, got[1].receipt, "new"}
    assert sorted(q.places()) == ["same", "x", "y", "z"]


def test_what_is_not_held_changes_nothing(q: Queue) -> None:
    q.put("a", "b")
    (got,) = q.take(1)
    stored = q.rig.snapshot()
    assert q.run(calls.release(q.keys, [("stale", "a")])) == [LOST]
    assert q.rig.snapshot() == stored
    items = [("stale", ""), (got.receipt, "a"), (got.receipt, "a")]
    assert q.run(calls.release(q.keys, items)) == [LOST, DONE, LOST]
    assert names(q.ready) == ["b", "a"]


def test_a_release_that_was_lost_is_unknown_when_repeated(q: Queue) -> None:
    q.put("a")
    call = calls.release(q.keys, [(q.take()[0].receipt, "a")])
    q.run(call)
    assert q.run(call.again()) == [UNKNOWN]
    assert len(q.ready) == 1


def test_a_lease_past_its_deadline_can_be_given_back(q: Queue) -> None:
    q.put("a")
    got = q.take()
    q.expire()
    assert release(q, got) == [DONE]
    q.take()
    assert release(q, got) == [LOST]


@pytest.mark.parametrize("front", [True, False])
def test_bytes_stop_a_call_and_the_order_is_kept(q: Queue, front: bool) -> None:
    q.put(*[msg(i, size=1000) for i in range(5)])
    got = q.take()
    rounds = 0
    left = got
    while left:
        verdicts = release(q, left, front=front, max_bytes=2000)
        assert set(verdicts) <= {DONE, AGAIN}
        left = [each for each, v in zip(left, verdicts, strict=True) if v is AGAIN]
        rounds += 1
    assert rounds == 3
    assert names(q.ready) == ["0", "1", "2", "3", "4"]


def test_a_thousand(q: Queue) -> None:
    q.put(*range(1000))
    got = q.take(1000)
    items = [(each.receipt, "") for each in got]
    with pytest.raises(InvalidArgument):
        q.run(calls.release(q.keys, [*items, ("one", "more")]))
    assert set(q.run(calls.release(q.keys, items, front=True))) == {DONE}
    assert names(q.ready) == [str(i) for i in range(1000)]


def test_a_step_that_this_fleet_does_not_have_is_its_last(rig: Rig, q: Queue) -> None:
    few = rig.queue("q", steps=(0,))
    q.put("a", step=4)
    release(few, q.take())
    assert names(q.ready) == ["a"]
    assert q.db.llen("q") == 1


def test_a_corrupt_record_is_not_lost(q: Queue) -> None:
    """It goes to ready, and the claim that meets it moves it to dead letters."""
    q.put("a")
    got = q.take()
    q.db.hset(q.keys.records, got[0].receipt, b"what is this")
    release(q, got)
    assert q.take() == []
    assert [letter.raw for letter in q.dead] == [b"what is this"]


def test_tokens(q: Queue) -> None:
    q.put("a", "b")
    got = q.take()
    assert q.tokens == 0
    release(q, got[:1])
    assert q.tokens == 1
    q.take()
    q.put("later", delay_ms=60_000)
    assert q.claim().wait_ms is not None
    release(q, got[1:], delay_ms=120_000)  # later than what is waited for
    assert q.tokens == 0


def test_one_token_is_enough(q: Queue) -> None:
    q.put("a", "b")
    for each in q.take():
        release(q, [each])
    q.run(calls.pause(q.keys, paused=False))
    assert q.tokens == 1


def test_what_falls_due_next_wakes_whoever_shall_mind_it(q: Queue) -> None:
    q.put("a", "b")
    got = q.take()
    release(q, got[:1], delay_ms=60_000)
    assert q.tokens == 1  # nobody minds the time yet
    assert q.claim().wait_ms is not None
    assert q.tokens == 0
    release(q, got[1:], delay_ms=30_000)
    assert q.tokens == 1  # sooner than what is waited for


def test_a_paused_queue_gets_no_token(q: Queue) -> None:
    q.put("a")
    got = q.take()
    q.run(calls.pause(q.keys))
    release(q, got)
    assert q.tokens == 0
