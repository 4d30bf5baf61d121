"""ack, complete, reject, tell: how a message ends, and what is told of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Rejection, Verdict
from atomq.errors import InvalidArgument
from tests.lua.rig import Queue, msg, name_of

DONE, LOST, AGAIN, UNKNOWN = Verdict.DONE, Verdict.LOST, Verdict.AGAIN, Verdict.UNKNOWN


def receipts(q: Queue, n: int) -> list[str]:
    q.put(*range(n))
    return [each.receipt for each in q.take(n)]


# ── ack ───────────────────────────────────────────────────────────────────────────────────────


def test_acked_is_gone(q: Queue) -> None:
    held = receipts(q, 3)
    assert q.run(calls.ack(q.keys, held[:2])) == [DONE, DONE]
    assert list(q.unacked) == held[2:]
    assert q.places() == {"2": "unacked"}
    assert q.stats["acked"] == 2


def test_a_verdict_for_each(q: Queue) -> None:
    held = receipts(q, 2)
    verdicts = q.run(calls.ack(q.keys, ["stale", held[0], "", held[0], held[1]]))
    assert verdicts == [LOST, DONE, LOST, LOST, DONE]
    assert q.stats["acked"] == 2
    assert q.unacked == {}


def test_stale_receipts_change_nothing(q: Queue) -> None:
    receipts(q, 1)
    stored = q.rig.snapshot()
    assert q.run(calls.ack(q.keys, ["a", "b"])) == [LOST, LOST]
    assert q.rig.snapshot() == stored


def test_past_the_deadline_it_is_live_until_somebody_took_it(q: Queue) -> None:
    first, second = receipts(q, 2)
    q.expire()
    assert q.run(calls.ack(q.keys, [first])) == [DONE]
    (taken,) = q.take()
    assert q.run(calls.ack(q.keys, [second])) == [LOST]
    assert list(q.unacked) == [taken.receipt]


def test_a_repeated_ack_is_unknown_not_lost(q: Queue) -> None:
    call = calls.ack(q.keys, receipts(q, 2))
    q.run(call)
    assert q.run(call.again()) == [UNKNOWN, UNKNOWN]


def test_a_thousand_acks(q: Queue) -> None:
    held = receipts(q, 1000)
    with pytest.raises(InvalidArgument):
        calls.ack(q.keys, [*held, "more"])
    with pytest.raises(InvalidArgument):
        calls.ack(q.keys, [])
    assert set(q.run(calls.ack(q.keys, held))) == {DONE}


# ── complete ──────────────────────────────────────────────────────────────────────────────────


def listening(q: Queue, message_id: str) -> Any:
    ear = q.db.pubsub(ignore_subscribe_messages=True)
    ear.subscribe(q.keys.result(message_id))
    ear.get_message(timeout=1)
    return ear


def heard(ear: Any) -> bytes | None:
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        said = ear.get_message(timeout=0.05)
        if said:
            ear.close()
            return said["data"]  # type: ignore[no-any-return]
    ear.close()
    return None


def test_completed_is_gone_and_its_result_told_and_kept(q: Queue) -> None:
    held = receipts(q, 2)
    ear = listening(q, "0")
    items = [(held[0], "0", "42"), (held[1], "1", '{"a": []}')]
    assert q.run(calls.complete(q.keys, items, ttl_ms=5000)) == [DONE, DONE]
    assert (q.result("0"), q.result("1")) == (b"42", b'{"a": []}')
    assert 4000 < q.db.pttl(q.keys.result("0")) <= 5000
    assert heard(ear) == b"42"
    assert q.places() == {}
    assert q.stats["acked"] == 2


def test_who_lost_the_message_stores_no_result(q: Queue) -> None:
    (held,) = receipts(q, 1)
    q.expire()
    (taken,) = q.take()
    ear = listening(q, "0")
    assert q.run(calls.complete(q.keys, [(held, "0", "wrong")])) == [LOST]
    assert q.result("0") is None
    assert heard(ear) is None
    items = [(taken.receipt, "0", "right"), (taken.receipt, "0", "twice")]
    assert q.run(calls.complete(q.keys, items)) == [DONE, LOST]
    assert q.result("0") == b"right"


def test_a_repeated_complete_keeps_the_result(q: Queue) -> None:
    (held,) = receipts(q, 1)
    call = calls.complete(q.keys, [(held, "0", "1")])
    q.run(call)
    assert q.run(call.again()) == [UNKNOWN]
    assert q.result("0") == b"1"


def test_no_result_no_key(q: Queue) -> None:
    (held,) = receipts(q, 1)
    q.run(calls.complete(q.keys, [(held, "0", "")]))
    assert q.result("0") is None


# ── reject ────────────────────────────────────────────────────────────────────────────────────


def test_rejected_is_a_dead_letter_with_its_reason(q: Queue) -> None:
    q.put("a", step=3)
    (got,) = q.take()
    ear = listening(q, "a")
    item = Rejection(got.receipt, "a", "failed", "ValueError: no\nat all", '{"error": 1}')
    assert q.run(calls.reject(q.keys, [item], ttl_ms=5000)) == [DONE]
    (letter,) = q.dead
    assert (letter.reason, letter.detail) == ("failed", "ValueError: no\nat all")
    assert (letter.deliveries, letter.step, letter.raw) == (1, 3, msg("a"))
    assert q.result("a") == b'{"error": 1}' == heard(ear)
    assert 4000 < q.db.pttl(q.keys.result("a")) <= 5000
    assert q.places() == {"a": "dead"}
    assert q.stats["dead"] == 1


def test_rejecting_what_is_not_held_changes_nothing(q: Queue) -> None:
    (held,) = receipts(q, 1)
    stored = q.rig.snapshot()
    assert q.run(calls.reject(q.keys, [Rejection("stale", "0", "r", "", "v")])) == [LOST]
    assert q.rig.snapshot() == stored
    twice = [Rejection(held, "0", "r"), Rejection(held, "0", "r", "", "v")]
    assert q.run(calls.reject(q.keys, twice)) == [DONE, LOST]
    assert len(q.dead) == 1
    assert q.result("0") is None


def test_bytes_stop_a_rejection(q: Queue) -> None:
    q.put(*[msg(i, size=1000) for i in range(4)])
    items = [Rejection(each.receipt, name_of(each), "r") for each in q.take()]
    assert q.run(calls.reject(q.keys, items, max_bytes=2000)) == [DONE, DONE, AGAIN, AGAIN]
    assert sorted(q.places().values()) == ["dead", "dead", "unacked", "unacked"]


def test_a_corrupt_record_is_rejected_whole(q: Queue) -> None:
    (held,) = receipts(q, 1)
    q.db.hset(q.keys.records, held, b"what is this")
    q.run(calls.reject(q.keys, [Rejection(held, "0", "r")]))
    assert [letter.raw for letter in q.dead] == [b"what is this"]


@pytest.mark.parametrize("reason", ["", "x" * 65, "two\nlines"])
def test_a_reason_is_one_short_line(q: Queue, reason: str) -> None:
    with pytest.raises(InvalidArgument):
        calls.reject(q.keys, [Rejection("r", "i", reason)])


# ── tell ──────────────────────────────────────────────────────────────────────────────────────


def test_told_of_a_message_that_nobody_holds(q: Queue) -> None:
    ear = listening(q, "a")
    assert q.run(calls.tell(q.keys, [("a", '{"state": 1}'), ("b", "2")], ttl_ms=5000)) == 2
    assert q.result("a") == b'{"state": 1}' == heard(ear)
    assert q.result("b") == b"2"
    assert 4000 < q.db.pttl(q.keys.result("a")) <= 5000


def test_a_result_that_is_there_stays(q: Queue) -> None:
    (held,) = receipts(q, 1)
    q.run(calls.complete(q.keys, [(held, "0", "right")]))
    ear = listening(q, "0")
    assert q.run(calls.tell(q.keys, [("0", "wrong"), ("1", "new"), ("1", "twice")])) == 1
    assert (q.result("0"), q.result("1")) == (b"right", b"new")
    assert heard(ear) is None
