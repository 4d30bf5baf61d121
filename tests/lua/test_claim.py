"""claim: who gets what, in which order, and what is kept of it."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from atomq import calls, scripts
from atomq.calls import HOLDS, SOLE, Call, Claimed, DeadLettered, Outgoing
from atomq.errors import InvalidArgument, WrongType
from atomq.flows import BEYOND_RETRIES
from tests.conftest import LONG
from tests.lua.rig import BAND, Queue, Rig, msg, name_of, names, tracked_msg

# ── what is stored ────────────────────────────────────────────────────────────────────────────


def test_a_claimed_message_is_leased_and_nowhere_else(q: Queue) -> None:
    q.put("a", "b", step=2)
    before = q.now()
    (got,) = q.run(q.claiming(1, claim_id="me-7", lease_ms=5000)).deliveries

    assert (got.receipt, got.deliveries, got.step, got.queue) == ("me-7.0.1", 1, 2, "q")
    assert names([got]) == ["a"]
    ((receipt, lease),) = q.unacked.items()
    assert receipt == got.receipt
    assert (lease.step, lease.deliveries, lease.raw) == (2, 1, msg("a"))
    assert before <= lease.since <= q.now()
    assert lease.deadline == lease.since + 5000
    assert names(q.ready) == ["b"]
    assert q.stats["delivered"] == 1


def test_every_receipt_is_fresh(q: Queue) -> None:
    q.put(*range(20))
    receipts = [each.receipt for _ in range(4) for each in q.take(5)]
    assert len(set(receipts)) == 20 == len(q.unacked)


def test_nothing_to_claim(q: Queue) -> None:
    got = q.claim()
    assert (got.deliveries, got.wait_ms, got.more, got.lost_acks) == ([], None, (), ())
    assert abs(got.now_ms - q.now()) < 1000


# ── order ─────────────────────────────────────────────────────────────────────────────────────


def test_oldest_first(q: Queue) -> None:
    q.put(*range(10))
    assert names(q.take(4) + q.take(4) + q.take(4)) == [str(i) for i in range(10)]


def test_within_a_step_expired_then_due_then_ready_each_oldest_first(q: Queue) -> None:
    q.put("expired 1")
    q.put("expired 2")
    q.take(1)
    q.pass_time(1000)
    q.take(1)
    q.put("due 2", delay_ms=2000)
    q.put("due 1", delay_ms=1000)
    q.put("ready 1", "ready 2")
    q.expire()
    q.fall_due()
    wanted = ["expired 1", "expired 2", "due 1", "due 2", "ready 1", "ready 2"]
    assert names(q.take()) == wanted


def test_across_steps_order_is_strict(q: Queue) -> None:
    """A due message of a low priority comes behind a ready one of a high priority."""
    q.put("expired low", step=3)
    q.take()
    q.put("due middle", step=2, delay_ms=1000)
    q.put("ready middle", step=2)
    q.put("ready lowest", step=4)
    q.put("ready high")
    q.put("due high", delay_ms=1000)
    q.expire()
    q.fall_due()
    wanted = [
        "due high",
        "ready high",
        "due middle",
        "ready middle",
        "expired low",
        "ready lowest",
    ]
    assert names(q.take(2) + q.take(3) + q.take(5)) == wanted


def test_expired_order_holds_over_many_claims(q: Queue) -> None:
    """Parked in ready, 100 at a time, they came out turned around."""
    q.put(*range(50))
    for _ in range(50):
        q.take(1)
    order = [name_of(lease.raw) for lease in q.unacked.values()]
    q.expire()
    got = [each for _ in range(10) for each in q.take(5)]
    assert names(got) == order
    assert all(each.deliveries == 2 for each in got)


def test_what_is_not_due_is_not_handed_out(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    assert q.take() == []
    q.fall_due()
    (got,) = q.take()
    assert got.deliveries == 1
    assert q.delayed == {}


def test_a_lease_that_runs_is_not_taken(q: Queue) -> None:
    q.put("a")
    q.take()
    q.pass_time(59_000)
    assert q.take() == []
    q.pass_time(1_001)
    (again,) = q.take()
    assert again.deliveries == 2
    assert list(q.unacked) == [again.receipt]
    assert q.stats["expired"] == 1


def test_several_queues_in_the_order_given(rig: Rig, q: Queue) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    other = rig.queue("other")
    q.put("q low", step=2)
    other.put("other high")
    q.put("q high")
    other.put("other low", step=2)
    call = calls.claim([q.keys, other.keys], "c-1", limit=3, lease_ms=1000)
    got = rig.engine.run(call)
    assert names(got.deliveries) == ["q high", "other high", "q low"]
    assert [each.queue for each in got.deliveries] == ["q", "other", "q"]
    assert got.more == ("other",)
    assert (len(q.unacked), len(other.unacked)) == (2, 1)


def test_of_several_queues_the_key_of_another_type_is_named(rig: Rig, q: Queue) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    other = rig.queue("other")
    call = calls.claim([q.keys, other.keys], "c-1", limit=3, lease_ms=1000)
    for name in ("unacked", "records", "dead", "meta", "stats"):
        other.put(name)
        other.take(1)
        key = getattr(other.keys, name)
        rig.db.set(key, "no")
        with pytest.raises(WrongType, match=re.escape(f"{key} is not of the type")):
            rig.engine.run(call)
        rig.db.delete(key)


# ── bounds ────────────────────────────────────────────────────────────────────────────────────


def test_limit_and_more(q: Queue) -> None:
    q.put(*range(3))
    first, second = q.claim(2), q.claim(2)
    assert (len(first.deliveries), first.more) == (2, ("q",))
    assert (len(second.deliveries), second.more) == (1, ())


@pytest.mark.parametrize("source", ["ready", "unacked", "delayed"])
def test_bytes_stop_a_claim_but_never_before_the_first(q: Queue, source: str) -> None:
    q.put(*[msg(i, size=1000) for i in range(6)], delay_ms=1000 if source == "delayed" else 0)
    if source == "unacked":
        q.take()
        q.expire()
    q.fall_due()
    assert len(q.take(10, max_bytes=1)) == 1
    got = q.claim(10, max_bytes=2500)
    assert len(got.deliveries) in (1, 2, 3)
    assert got.more == ("q",)
    assert len(set(q.places())) == 6


def test_bytes_that_are_just_enough_hand_out_no_more(q: Queue) -> None:
    q.put(*[msg(i, size=20_000) for i in range(6)])
    size = len(q.ready[0])
    assert names(q.take(1, max_bytes=size)) == ["0"]
    assert names(q.take(5, max_bytes=2 * size)) == ["1", "2"]
    assert names(q.take(5, max_bytes=size + 1)) == ["3", "4"]


def test_bytes_that_are_just_enough_hand_out_no_more_though_no_size_is_known(q: Queue) -> None:
    """Stock tells nobody how large its messages are: what has no room goes back."""
    q.db.lpush(q.keys.ready[0], *(msg(i, size=20_000) for i in range(4)))
    assert names(q.take(4, max_bytes=2 * len(q.ready[0]))) == ["0", "1"]
    assert names(q.ready) == ["2", "3"]


def test_no_more_is_taken_out_than_has_room(q: Queue) -> None:
    """In full too: what is no larger than the largest known is not taken out to go back."""
    q.put(*[msg(i, size=20_000) for i in range(9)])
    largest = len(q.ready[0])
    q.take(1)
    for many, space in ((1, 1), (3, 3 * largest), (3, 3 * largest - 1)):
        q.db.config_resetstat()
        assert len(q.take(5, max_bytes=space)) == many
        stats: dict[str, Any] = q.db.info("commandstats")
        assert "cmdstat_rpush" not in stats


@pytest.mark.parametrize("source", ["unacked", "delayed"])
def test_what_is_larger_than_anybody_knew_is_not_lost(q: Queue, source: str) -> None:
    """A purge forgot the sizes; what found no room had been taken out of the index already."""
    q.put(*[msg(i, size=20_000) for i in range(3)], delay_ms=1000 if source == "delayed" else 0)
    if source == "unacked":
        q.take()
    q.expire()
    q.fall_due()
    q.db.hdel(q.keys.meta, "largest")
    got = q.claim(10, max_bytes=25_000)
    assert (len(got.deliveries), got.more) == (2, ("q",))
    assert sorted(q.places()) == ["0", "1", "2"]
    assert int(q.meta["largest"]) > 20_000


def test_a_thousand_at_once(q: Queue) -> None:
    q.put(*range(1000))
    q.put(1000)
    got = q.claim(1000)
    assert names(got.deliveries) == [str(i) for i in range(1000)]
    assert got.more == ("q",)
    q.expire()
    again = [q.claim(1000) for _ in range(5)]
    assert [len(each.deliveries) for each in again] == [200] * 5  # promise 10: these cost more
    assert {each.more for each in again} == {("q",)}
    q.run(calls.ack(q.keys, [each.receipt for claimed in again for each in claimed.deliveries]))
    q.db.delete("q")
    q.put(*range(200))
    q.claim(1000)
    q.expire()
    got = q.claim(1000)
    assert (len(got.deliveries), got.more, q.tokens) == (200, (), 0)


# ── dead on arrival ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b"[1]", b"not json", b"\x00\xff", b"1 1 1 {}"])
def test_what_cannot_be_decoded_goes_to_dead_letters(q: Queue, raw: bytes) -> None:
    q.db.lpush("q", msg("a"), raw, msg("b"))
    assert names(q.take()) == ["a", "b"]
    (letter,) = q.dead
    assert (letter.reason, letter.raw, letter.step) == ("undecodable", raw, 1)
    assert letter.deliveries == 0
    assert q.stats["dead"] == 1


CORRUPT = [b"what is this", b"9999999999 1 1 {}", b"1 100 1 {}", b"1 1 9999999999999999 {}"]


@pytest.mark.parametrize("record", CORRUPT)
def test_a_corrupt_record_goes_to_dead_letters_whole(q: Queue, record: bytes) -> None:
    q.put("a")
    (got,) = q.take()
    q.db.hset(q.keys.records, got.receipt, record)
    q.pass_one_lease(got.receipt)
    assert q.take() == []
    assert [(letter.reason, letter.raw) for letter in q.dead] == [("corrupt", record)]
    assert q.unacked == {}


def test_a_deadline_without_a_record_is_dropped(q: Queue) -> None:
    q.db.zadd(q.keys.unacked, {"ghost": 1})
    assert q.take() == []
    assert q.unacked == {}


def test_a_message_delivered_often_enough_is_dead(q: Queue) -> None:
    q.put("a", step=2)
    for n in (1, 2, 3):
        (got,) = q.take(max_deliveries=3)
        assert got.deliveries == n
        q.expire()
    assert q.take(max_deliveries=3) == []
    (letter,) = q.dead
    assert (letter.reason, letter.deliveries, letter.step) == ("max_deliveries", 3, 2)
    assert name_of(letter.raw) == "a"
    assert q.unacked == {}


@pytest.mark.parametrize("source", ["ready", "delayed"])
def test_a_message_that_may_be_delivered_once_is_delivered_once(q: Queue, source: str) -> None:
    q.put("a", delay_ms=1000 if source == "delayed" else 0)
    q.fall_due()
    assert names(q.take(max_deliveries=1)) == ["a"]
    q.expire()
    assert q.take(max_deliveries=1) == []


def test_what_expired_long_ago_is_dead(q: Queue) -> None:
    q.db.lpush("q", b'{"x-expires":1,"body":"a"}', b'{"x-expires":0,"body":"b"}')
    assert names(q.take()) == ["b"]
    assert [letter.reason for letter in q.dead] == ["expired"]


def test_counts_and_steps_are_told_apart(q: Queue) -> None:
    """Messages alike in both share what is made for the first of them."""
    for key, count in zip(q.keys.ready, (31, 15, 63), strict=False):
        q.db.lpush(key, b'{"x-deliveries":%d,"body":"a"}' % count)
    got = q.take()
    assert [(each.deliveries, each.step) for each in got] == [(32, 1), (16, 2), (64, 3)]
    held = [q.unacked[each.receipt] for each in got]
    assert [(each.deliveries, each.step) for each in held] == [(32, 1), (16, 2), (64, 3)]


@pytest.mark.parametrize(("count", "many"), [(0, 2), (1, 1), (2, 3)])
def test_messages_are_told_apart_by_their_step_alone(q: Queue, count: int, many: int) -> None:
    """Their counts, and how many there are, may be the number of a step."""
    for key, how_many in zip(q.keys.ready, (many, 1, many, 1), strict=True):
        q.db.lpush(key, *[b'{"x-deliveries":%d,"body":"a"}' % count] * how_many)
    steps = [1] * many + [2] + [3] * many + [4]
    assert [(each.deliveries, each.step) for each in q.take()] == [(count + 1, n) for n in steps]


@pytest.mark.parametrize("count", [0, 1])
def test_messages_are_told_apart_by_their_queue_alone(rig: Rig, q: Queue, count: int) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    queues = [q, rig.queue("other"), rig.queue("third")]
    for queue in queues:
        queue.db.lpush(queue.keys.ready[0], b'{"x-deliveries":%d,"body":"a"}' % count)
    call = calls.claim([queue.keys for queue in queues], "c-1", limit=9, lease_ms=1000)
    got = rig.engine.run(call).deliveries
    assert [(each.queue, each.deliveries) for each in got] == [
        (queue.name, count + 1) for queue in queues
    ]
    assert [list(queue.unacked) for queue in queues] == [[each.receipt] for each in got]


def test_in_one_claim_each_keeps_the_count_and_the_step_of_its_own(q: Queue) -> None:
    q.put("twice")
    q.take()
    q.expire()
    q.take()
    q.pass_time(10)  # the order within a millisecond is open
    q.put("once", "too")
    q.put("low", step=3)
    q.take()
    q.expire()
    got = q.take()
    assert [each.deliveries for each in got] == [3, 2, 2, 2]
    stored = q.unacked
    kept = [(stored[each.receipt].deliveries, stored[each.receipt].step) for each in got]
    assert kept == [(3, 1), (2, 1), (2, 1), (2, 3)]


def test_deliveries_count_on_through_ready(q: Queue) -> None:
    """A release writes the count into the message, and the claim goes on from there."""
    q.put("a")
    for n in (1, 2, 3):
        (got,) = q.take(max_deliveries=3)
        assert got.deliveries == n
        q.run(calls.release(q.keys, [(got.receipt, "a")]))
    assert q.take(max_deliveries=3) == []
    assert [letter.reason for letter in q.dead] == ["max_deliveries"]


@pytest.mark.parametrize("source", ["ready", "unacked", "delayed"])
def test_past_its_time_to_live_it_is_dead(q: Queue, source: str) -> None:
    q.put("a", ttl_ms=1 if source != "unacked" else 20, delay_ms=500 * (source == "delayed"))
    if source == "unacked":
        q.take()
    time.sleep(0.003 if source != "unacked" else 0.022)
    q.expire()
    q.fall_due()
    assert q.take() == []
    (letter,) = q.dead
    assert letter.reason == "expired"
    assert name_of(letter.raw) == "a"


def test_before_its_time_to_live_it_lives(q: Queue) -> None:
    q.put("a", ttl_ms=60_000)
    assert names(q.take()) == ["a"]
    q.expire()
    assert names(q.take()) == ["a"]


def test_a_claim_buries_no_more_than_some_hundred(q: Queue) -> None:
    """One claim that met 100,000 expired messages would move them all, and hold the server."""
    q.put(*range(1000), ttl_ms=1)
    q.put(*range(1000, 2000), ttl_ms=1)
    q.put("alive")
    time.sleep(0.003)
    got = q.claim(1)
    assert (got.deliveries, got.more) == ([], ("q",))
    assert len(q.dead) == 100
    assert q.tokens == 1
    assert q.take(1000) == []
    assert len(q.dead) == 200
    found = [each for _ in range(19) for each in q.take(1)]
    assert names(found) == ["alive"]
    assert len(q.dead) == 2000


def test_what_is_buried_counts_as_bytes_too(q: Queue) -> None:
    q.put(*[msg(i, size=1000) for i in range(6)], ttl_ms=1)
    time.sleep(0.003)
    assert q.claim(10, max_bytes=2500).more == ("q",)
    assert len(q.dead) == 3


@pytest.mark.parametrize("source", ["unacked", "delayed"])
def test_behind_the_dead_the_order_is_kept(q: Queue, source: str) -> None:
    """With room for one, five that are dead once hid the one behind them from it."""
    delay = {"unacked": 0, "delayed": 500}[source]
    q.put(*range(5), ttl_ms=20, delay_ms=delay)
    q.put("alive", delay_ms=2 * delay)
    if source == "unacked":
        q.take()
    q.put("ready")
    q.put("low", step=3)
    q.expire()
    q.fall_due()
    time.sleep(0.022)
    assert names(q.take(1) + q.take(1) + q.take(1)) == ["alive", "ready", "low"]
    assert len(q.dead) == 5


# ── the count at the head of a message ────────────────────────────────────────────────────────

HEADS = {
    "stock's blanks": (b'{"x-deliveries": 3, "body": "a"}', 4),
    "ours": (b'{"x-deliveries":3,"body":"a"}', 4),
    "with expiry": (b'{"x-deliveries":3,"x-expires":4398046511000,"body":"a"}', 4),
    "stock's, with expiry": (b'{"x-deliveries": 3, "x-expires": 4398046511000, "body": "a"}', 4),
    "zero": (b'{"x-deliveries":0,"body":"a"}', 1),
    "none": (b'{"body":"a"}', 1),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_count_is_read_and_replaced(q: Queue, head: str) -> None:
    raw, wanted = HEADS[head]
    q.db.lpush("q", raw)
    (got,) = q.take()
    assert got.deliveries == wanted
    q.run(calls.release(q.keys, [(got.receipt, "a")]))
    (back,) = q.ready
    assert back.startswith(b'{"x-deliveries":%d,' % wanted)
    assert back.count(b"x-deliveries") == 1
    kept = {k: v for k, v in json.loads(raw).items() if k != "x-deliveries"}
    assert {k: v for k, v in json.loads(back).items() if k != "x-deliveries"} == kept


HOSTILE = [
    b'{"x-deliveries":-1,"body":"a"}',
    b'{"x-deliveries":"3","body":"a"}',
    b'{"x-deliveries":1.5,"body":"a"}',
    b'{"x-deliveries":1e9,"body":"a"}',
    b'{"x-deliveries":999999999,"body":"a"}',
    b'{"x-deliveries":9999999999,"body":"a"}',
    b'{"x-deliveries":99999999999999999999,"body":"a"}',
    b'{"x-expires":99999999999999999999,"body":"a"}',
    b'{"x-expires":-5,"body":"a"}',
    b'{"x-deliveries":3,"x-deliveries":4,"body":"a"}',
    b'{"x-',
    b'{"x-deliveries":null,"body":"a"}',
    b'{"',
]


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_hostile_head_neither_wedges_nor_loses(q: Queue, raw: bytes) -> None:
    """It may be delivered or be dead; it is in one place, and what stands behind it comes."""
    q.db.lpush("q", raw, msg("b"))
    for _ in range(3):
        got = q.take()
        q.run(calls.release(q.keys, [(each.receipt, "") for each in got]))
        assert len(q.ready) + len(q.dead) == 2
        assert any(b'"b"' in each for each in q.ready)
        for each in q.ready:
            assert each.count(b'"x-deliveries":') <= max(1, raw.count(b'"x-deliveries":'))
        assert all(letter.raw.startswith(b"{") for letter in q.dead)  # and no record of ours


# ── retry ─────────────────────────────────────────────────────────────────────────────────────


def test_a_retry_is_given_the_same_leases_and_nothing_new(q: Queue) -> None:
    q.put(*range(5))
    call = q.claiming(3)
    first = q.run(call)
    stored = q.unacked
    for again in (call.again(), call.again().again()):
        second = q.run(again)
        assert [d.receipt for d in second.deliveries] == [d.receipt for d in first.deliveries]
        assert [d.envelope.raw for d in second.deliveries] == [msg(0), msg(1), msg(2)]
        assert [d.deliveries for d in second.deliveries] == [1, 1, 1]
    assert q.unacked == stored
    assert names(q.ready) == ["3", "4"]
    assert q.stats["delivered"] == 3


def test_a_retry_is_given_the_leases_of_all_its_queues(rig: Rig, q: Queue) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    other = rig.queue("other")
    q.put("a", "new")
    other.put("b")
    call = calls.claim([other.keys, q.keys], "c-1", limit=2, lease_ms=1000)
    first, again = rig.engine.run(call), rig.engine.run(call.again())
    assert names(again.deliveries) == ["b", "a"]
    assert [d.receipt for d in again.deliveries] == [d.receipt for d in first.deliveries]


def test_a_retry_leaves_out_what_was_acked_since(q: Queue) -> None:
    q.put(*range(5))
    call = q.claiming(4)
    got = q.run(call).deliveries
    q.run(calls.ack(q.keys, [got[1].receipt, got[2].receipt]))
    assert names(q.run(call.again()).deliveries) == ["0", "3"]
    assert names(q.ready) == ["4"]


def test_a_retry_of_a_claim_that_never_arrived_is_that_claim(q: Queue) -> None:
    q.put("a")
    (got,) = q.run(q.claiming(3).again()).deliveries
    assert name_of(got) == "a"
    assert got.receipt.endswith(".1.1")


@pytest.mark.parametrize("many", [1, 5])
def test_the_same_claim_id_twice_overwrites_no_lease(q: Queue, many: int) -> None:
    """Also the first attempt asks for its own names: the prototype lost five of ten here."""
    q.put(*range(10))
    call = q.claiming(many)
    q.run(call)
    second = q.run(call)
    assert names(second.deliveries) == ["0", "1", "2", "3", "4"][:many]
    assert sorted(q.places()) == [str(i) for i in range(10)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_claim_id_that_some_leases_have_already_gives_no_others(q: Queue, count: int) -> None:
    """A plain claim meets them when it writes, and takes back what it had written by then."""
    q.put(*range(10))
    q.take(1)
    first = q.claiming(2, claim_id="me-1")
    q.run(first)
    acks = [each.receipt for each in q.take(count)] if count else []
    again = q.claiming(5, claim_id="me-1", acks=[acks])
    assert _stays_plain(q, again)
    stats, ready = q.stats, q.ready
    got = q.run(again)
    assert names(got.deliveries) == ["1", "2"]
    assert len(got.lost_acks) == 0
    assert (len(q.unacked), q.ready) == (3, ready)
    assert q.stats == stats | ({"acked": count} if count else {})


def test_acks_beside_a_claim_id_that_was_used_are_carried_out_once(q: Queue) -> None:
    q.put(*range(3))
    q.take(1)
    q.run(q.claiming(2, claim_id="me-1"))
    q.db.lpush(q.keys.ready[0], *(tracked_msg(name) for name in "abcd"))
    held = [each.word for each in q.take(2)]
    q.db.delete(*q.keys.tracked)
    again = q.claiming(2, claim_id="me-1", acks=[["stale", *held]])
    assert _stays_plain(q, again)
    got = q.run(again)
    assert (names(got.deliveries), got.lost_acks) == (["1", "2"], (("q", "stale"),))
    assert q.stats["acked"] == 2
    (key,) = [key for key in q.keys.tracked if q.db.exists(key)]
    assert {name: text[:1] for name, text in q.db.hgetall(key).items()} == {b"a": b"a", b"b": b"a"}


def test_a_late_original_behind_its_retry_doubles_nothing(q: Queue) -> None:
    q.put(*range(4))
    call = q.claiming(2)
    retried = q.run(call.again())
    late = q.run(call)
    assert names(retried.deliveries + late.deliveries) == ["0", "1", "2", "3"]
    assert sorted(q.places()) == ["0", "1", "2", "3"]


def test_a_retry_after_the_leases_expired_and_went_elsewhere(q: Queue) -> None:
    q.put("a")
    call = q.claiming(1)
    q.run(call)
    q.expire()
    (taken,) = q.take(by="other")
    assert q.run(call.again()).deliveries == []
    assert list(q.unacked) == [taken.receipt]


def how(claimed: Claimed) -> list[tuple[str, str, bytes]]:
    return [(each.queue, each.reason, each.raw) for each in claimed.dead_lettered]


def test_what_a_claim_buries_it_answers(q: Queue) -> None:
    """Nobody else can tell who waits for the results."""
    q.put("often")
    q.take()
    q.expire()
    q.put("old", ttl_ms=1)
    time.sleep(0.003)
    old = q.ready[0]
    q.put("good", "odd", delay_ms=60_000)
    q.fall_due()
    q.db.hset(q.keys.delayed_records, "odd", b"what is this")
    q.db.lpush("q", b"junk")
    claimed = q.claim(max_deliveries=1)
    assert names(claimed.deliveries) == ["good"]
    assert how(claimed) == [
        ("q", "max_deliveries", msg("often")),
        ("q", "corrupt", b"what is this"),
        ("q", "expired", old),
        ("q", "undecodable", b"junk"),
    ]
    assert [letter.detail for letter in q.dead] == ["", "odd", "", ""]
    assert q.claim().dead_lettered == ()


def test_what_it_buries_of_several_queues(rig: Rig, q: Queue) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    other = rig.queue("other")
    q.db.lpush("q", b"one", b"two")
    q.db.lpush("other", b"three")
    call = calls.claim([other.keys, q.keys], "c-1", limit=5, lease_ms=1000)
    first, again = rig.engine.run(call), rig.engine.run(call.again())
    assert how(first) == how(again)
    assert [(each.queue, each.raw) for each in first.dead_lettered] == [
        ("other", b"three"),
        ("q", b"one"),
        ("q", b"two"),
    ]


@pytest.mark.parametrize("leases", [True, False], ids=["with leases", "without"])
def test_a_retry_answers_what_was_buried_and_takes_nothing_new(q: Queue, leases: bool) -> None:
    q.db.lpush("q", b"one", b"two")
    if leases:
        q.put("a")
    call = q.claiming()
    first = q.run(call)
    q.put("new")
    q.db.lpush("q", b"three")
    for again in (call.again(), call.again().again()):
        second = q.run(again)
        assert how(second) == how(first)
        assert names(second.deliveries) == ["a"] * leases
    assert [letter.raw for letter in q.dead] == [b"one", b"two"]
    assert len(q.ready) == 2


def test_a_retry_is_not_told_what_others_buried(q: Queue) -> None:
    q.db.lpush("q", b"one")
    call = q.claiming(by="a b")
    q.run(call)
    q.db.lpush("q", b"two")
    q.claim(by="c")
    assert q.run(call.again()).dead_lettered == ()


@pytest.mark.parametrize("times", [1, BEYOND_RETRIES])
@pytest.mark.parametrize("got", ["messages", "dead letters"])
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("place", ["ready", "delayed", "unacked", "apart"])
def test_a_retry_tells_what_came_since(
    q: Queue, place: str, step: int, got: str, times: int
) -> None:
    """Its consumer may go to work with what it has: others are woken for the rest."""
    q.write("ready", msg("had"), name="had", stale=got == "dead letters")
    call = q.claiming()
    first = q.run(call)
    assert (first.more, q.tokens) == ((), 0)
    q.write(place, msg("new"), name="z-1.0.1", step=step, deliveries=2, spared=2, at=q.now() - 9)
    held = q.places()
    for _ in range(times):
        call = call.again()
    for again in (call, call.again()):
        said = q.run(again)
        assert (names(said.deliveries), how(said)) == (names(first.deliveries), how(first))
        assert (said.more, q.tokens) == (("q",), 1)
    assert q.places() == held
    assert names(q.take(by="other")) == ["new"]


def test_a_retry_with_messages_leaves_the_time_to_another(q: Queue) -> None:
    """Its consumer works, and would hear of the next delayed message when that is done."""
    q.put("had")
    call = q.claiming(by="works")
    q.run(call)
    q.put("later", delay_ms=30_000)
    for again in (call.again(), call.again().again()):
        said = q.run(again)
        assert (names(said.deliveries), said.wait_ms, said.more) == (["had"], None, ())
        assert q.tokens == 1
    assert q.claim(by="waits").wait_ms is not None


@pytest.mark.parametrize(
    ("raw", "reason", "found"),
    [
        (b'{ "properties": {"message_id": "a"}}', "undecodable", "a"),
        (b'{"properties": {"delivery_tag": "tag"}}', "expired", "tag"),
        (b'{"headers": {"id": "task"}, "properties": {"delivery_tag": "tag"}}', "expired", "task"),
        (b'{"properties": {"message_id": "\\ud800"}}', "expired", ""),
        (b"\xff", "undecodable", ""),
        (b"[1]", "undecodable", ""),
        (b"what is this", "corrupt", "delayed"),
    ],
)
def test_whose_result_it_was(raw: bytes, reason: str, found: str) -> None:
    assert DeadLettered("q", reason, "delayed" if reason == "corrupt" else "", raw).id == found


# ── acks that ride along ──────────────────────────────────────────────────────────────────────


def test_acks_ride_along(q: Queue) -> None:
    q.put(*range(4))
    first = q.take(2)
    got = q.claim(5, acks=[[first[0].receipt, "stale", first[1].receipt, first[0].receipt]])
    assert got.lost_acks == (("q", "stale"), ("q", first[0].receipt))
    assert names(got.deliveries) == ["2", "3"]
    assert q.places() == {"2": "unacked", "3": "unacked"}
    assert q.stats["acked"] == 2


def test_acks_of_a_repeated_claim_are_not_said_to_be_lost(q: Queue) -> None:
    """The first one may have done them, and its answer never came."""
    q.put("a", "b")
    (held,) = q.take(1)
    call = q.claiming(1, acks=[[held.receipt]])
    q.run(call)
    again = q.run(call.again())
    assert (again.lost_acks, names(again.deliveries)) == ((), ["b"])
    assert q.stats["acked"] == 1


def test_acks_of_several_queues(rig: Rig, q: Queue) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    other = rig.queue("other")
    q.put("a")
    other.put("b")
    mine, theirs = q.take()[0].receipt, other.take()[0].receipt
    acks = [[mine], ["stale", theirs]]
    call = calls.claim([q.keys, other.keys], "c-99", limit=1, lease_ms=1000, acks=acks)
    assert rig.engine.run(call).lost_acks == (("other", "stale"),)
    assert (q.unacked, other.unacked) == ({}, {})


# ── waking ────────────────────────────────────────────────────────────────────────────────────


def test_a_token_stays_only_where_work_remains(q: Queue) -> None:
    q.put("a", "b")
    q.take(1)
    assert q.tokens == 1
    q.take(1)
    assert q.tokens == 0


@pytest.mark.parametrize("work", ["ready", "due", "expired", "apart", "none"])
def test_limit_nought_passes_the_token_on_and_takes_nothing(q: Queue, work: str) -> None:
    if work == "apart":
        q.write("apart", msg("a"), name="z-1.0.1", deliveries=2, spared=2, at=q.now(), alone=True)
    elif work == "expired":
        q.put("a")
        q.take()
        q.expire()
    elif work != "none":
        q.put("a", delay_ms=1000 if work == "due" else 0)
        q.fall_due()
    held = q.places()
    got = q.claim(0)
    assert got.deliveries == []
    assert q.places() == held
    assert q.tokens == (work != "none")


def test_a_paused_queue_hands_out_nothing_and_keeps_no_token(q: Queue) -> None:
    q.put("a", "expired")
    q.put("due", delay_ms=1000)
    held = q.take(1)[0]
    q.run(calls.pause(q.keys))
    q.expire()
    q.fall_due()
    got = q.claim(acks=[[held.receipt]])
    assert (got.deliveries, got.more, got.wait_ms) == ([], (), None)
    assert q.tokens == 0
    assert "a" not in q.places()  # its ack was taken
    q.run(calls.pause(q.keys, paused=False))
    assert q.tokens == 1
    assert len(q.take()) == 2


def test_one_of_many_waiters_minds_the_time(q: Queue) -> None:
    """Told to all 64, a delayed message cost 40 claims; told to none it would be late."""
    q.put("a", delay_ms=30_000)
    waits = [q.claim(by=f"waiter{i}").wait_ms for i in range(8)]
    assert [wait is not None for wait in waits] == [True] + [False] * 7
    assert 29_000 < (waits[0] or 0) <= 30_000
    again = q.claim(by="waiter0").wait_ms
    assert again is not None  # it still does
    assert q.tokens == 0


def test_an_earlier_message_has_its_time_minded_too(q: Queue) -> None:
    q.put("late", delay_ms=30_000)
    q.claim(by="one")
    q.put("soon", delay_ms=10_000)
    assert q.tokens == 1
    wait = q.claim(by="two").wait_ms
    assert 9_000 < (wait or 0) <= 10_000


@pytest.mark.parametrize("first", [0, 1])
def test_of_several_queues_the_earliest_time_is_minded(rig: Rig, q: Queue, first: int) -> None:
    if rig.layout == "cluster":
        pytest.skip("in a cluster a claim has one queue")
    queues = [q, rig.queue("other")]
    queues[first].put("soon", delay_ms=10_000)
    queues[1 - first].put("late", delay_ms=30_000)
    call = calls.claim([each.keys for each in queues], "c-1", limit=3, lease_ms=1000)
    assert 9_000 < (rig.engine.run(call).wait_ms or 0) <= 10_000


def test_the_minder_that_goes_to_work_wakes_another(q: Queue) -> None:
    q.put("later", delay_ms=30_000)
    assert q.claim(by="minder").wait_ms is not None
    q.put("now")
    got = q.claim(by="minder")
    assert (len(got.deliveries), got.more) == (1, ())
    assert q.tokens == 1
    assert q.claim(by="other").wait_ms is not None


def test_a_minder_that_vanished_is_replaced_when_its_time_has_come(q: Queue) -> None:
    q.put("first", "second", delay_ms=30_000)
    q.claim(by="vanished")
    q.db.hset(q.keys.meta, "timer_at", q.now() - 1)
    assert q.claim(by="other").wait_ms is not None


# ── fleets with other priority steps ──────────────────────────────────────────────────────────


def test_a_fleet_of_one_step_strands_nothing_of_a_fleet_of_four(rig: Rig, q: Queue) -> None:
    """Leases and delays of steps it does not have are handed out with its last step."""
    few = rig.queue("q", steps=(0,))
    q.put("held", step=4)
    q.put("delayed", step=3, delay_ms=1000)
    q.put("high", delay_ms=2000)
    q.take(1)
    q.expire()
    q.fall_due()
    got = few.take()
    assert sorted(names(got)) == ["delayed", "held", "high"]
    assert {each.step for each in got} == {1}
    few.run(calls.ack(few.keys, [each.receipt for each in got]))
    assert q.places() == {}


def test_what_is_due_in_a_far_step_is_not_hidden_by_what_is_not(rig: Rig, q: Queue) -> None:
    """Ten that wait in the step behind the last, and one due two steps further."""
    few = rig.queue("q", steps=(0,))
    q.put(*range(10), step=2, delay_ms=3_600_000)
    q.put("due", step=4, delay_ms=1000)
    q.claim()
    q.db.zincrby(q.keys.delayed, -2000, "due")
    assert names(few.take(5)) == ["due"]
    q.put("soon", step=4, delay_ms=30_000)
    assert 20_000 < (few.claim(by="another").wait_ms or 0) <= 30_000


def test_steps_behind_the_last_wait_for_their_time(rig: Rig, q: Queue) -> None:
    few = rig.queue("q", steps=(0,))
    q.put("later", step=4, delay_ms=30_000)
    q.put("due", step=3, delay_ms=1000)
    q.claim()
    q.db.zincrby(q.keys.delayed, -2000, "due")
    got = few.claim()
    assert names(got.deliveries) == ["due"]
    assert few.claim(by="another").wait_ms is not None


# ── after an outage ───────────────────────────────────────────────────────────────────────────


def away(q: Queue, ms: int) -> None:
    """As if nobody had reached the server for so long; every lease is that much older."""
    q.db.hset(q.keys.meta, "seen", q.now() - ms)
    q.pass_time(ms)


def claimed_and_away(q: Queue, ms: int) -> Any:
    q.put("a", "b")
    got = q.take(2)
    away(q, ms)
    return got


def test_after_an_outage_nothing_is_taken_for_a_renewal_period(q: Queue) -> None:
    """20 of 20 living leases were handed away by the first claim after a restart."""
    claimed_and_away(q, 100_000)
    assert q.take(by="thief") == []
    until = int(q.meta["grace"])
    assert abs(until - q.now() - 20_000) < 2000
    q.db.hset(q.keys.meta, mapping={"grace": q.now(), "seen": q.now()})
    assert len(q.take(by="heir")) == 2


def test_a_living_holder_renews_within_the_grace(q: Queue) -> None:
    held = claimed_and_away(q, 100_000)
    assert q.take(by="thief") == []
    verdicts = q.run(calls.extend(q.keys, [d.receipt for d in held], lease_ms=60_000))
    assert verdicts == [calls.Verdict.DONE] * 2
    q.db.hset(q.keys.meta, "grace", q.now())
    assert q.take(by="thief") == []


def test_the_first_to_come_back_may_be_a_holder(q: Queue) -> None:
    """Its extend sees the gap too, and the other holders have their grace."""
    held = claimed_and_away(q, 100_000)
    q.run(calls.extend(q.keys, [held[0].receipt], lease_ms=60_000))
    assert q.take(by="thief") == []
    assert len(q.unacked) == 2


def test_without_an_outage_there_is_no_grace(q: Queue) -> None:
    claimed_and_away(q, 61_000)
    q.db.hset(q.keys.meta, "seen", q.now() - 29_000)  # less than one and a half renewals
    assert len(q.take(by="heir")) == 2


def test_a_gap_of_two_renewals_is_an_outage(q: Queue) -> None:
    claimed_and_away(q, 61_000)
    q.db.hset(q.keys.meta, "seen", q.now() - 35_000)
    assert q.take(by="thief") == []


def test_the_grace_is_that_of_the_holder_that_renews_most_rarely(q: Queue) -> None:
    """The first to come back may have a short lease, and must not judge the others by it."""
    claimed_and_away(q, 100_000)
    assert q.take(by="thief", lease_ms=3000) == []
    assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000


def end_window(q: Queue, lease_ms: int) -> None:
    """Let the window in which periods of renewal were heard of be over; a claim by `lease_ms`."""
    first, _, _ = q.meta["renewals"].rpartition(" ")
    q.db.hset(q.keys.meta, mapping={"renewals": f"{first} 1", "seen": q.now() - 1000})
    q.claim(0, by="other", lease_ms=lease_ms)


def test_the_gap_is_judged_by_the_holder_that_renews_most_often(q: Queue) -> None:
    """Leases of 5 s end within a gap that one of 60 s does not notice: 20 of 20 were lost."""
    q.claim(0, lease_ms=60_000)
    q.put(*range(20))
    assert len(q.take(20, lease_ms=5000)) == 20
    away(q, 10_000)
    assert q.take(20, by="thief", lease_ms=60_000) == []
    assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000


def test_a_longer_lease_that_nobody_has_any_more_is_forgotten(q: Queue) -> None:
    """Once used on a queue it made every outage of less than 30 s invisible, for good."""
    q.claim(0, lease_ms=60_000)
    q.put("a")
    (held,) = q.take(lease_ms=3000)
    end_window(q, 3000)
    end_window(q, 3000)
    assert q.meta["renew"] == "1000"
    q.run(calls.extend(q.keys, [held.receipt], lease_ms=3000))
    away(q, 10_000)
    assert q.take(by="thief", lease_ms=3000) == []
    assert abs(int(q.meta["grace"]) - q.now() - 1000) < 1000
    q.db.hset(q.keys.meta, mapping={"grace": q.now(), "seen": q.now()})
    assert names(q.take(by="heir", lease_ms=3000)) == ["a"]


def test_a_longer_lease_is_known_for_a_window_after_it_was_heard_of(q: Queue) -> None:
    q.claim(0, lease_ms=60_000)
    q.put("a")
    q.take(lease_ms=3000)
    end_window(q, 3000)
    away(q, 10_000)
    q.claim(by="thief", lease_ms=3000)
    assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000


def test_a_window_does_not_end_while_nobody_could_be_heard_of(q: Queue) -> None:
    """Two outages would make a grace too short for the holder that comes back last."""
    q.claim(0, lease_ms=60_000)
    q.put("a")
    q.take(lease_ms=3000)
    for _ in range(3):
        first, _, _ = q.meta["renewals"].rpartition(" ")
        q.db.hset(q.keys.meta, "renewals", f"{first} 1")
        away(q, 100_000)
        q.db.hset(q.keys.meta, "grace", 0)
        q.claim(by="thief", lease_ms=3000)
        assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000


def test_the_first_release_says_its_period_by_raising_it(q: Queue) -> None:
    """14144c1 writes `renew` where it is smaller than its own, and nothing else."""
    q.claim(0, lease_ms=3000)
    for _ in range(4):
        q.db.hset(q.keys.meta, "renew", 20_000)
        end_window(q, 3000)
        assert q.meta["renew"] == "1000"
        q.db.hset(q.keys.meta, "renew", 20_000)
        away(q, 10_000)
        q.db.hset(q.keys.meta, "grace", 0)
        q.claim(by="thief", lease_ms=3000)
        assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000
    for _ in range(2):
        end_window(q, 3000)
    away(q, 10_000)
    q.db.hset(q.keys.meta, "grace", 0)
    q.claim(by="thief", lease_ms=3000)
    assert abs(int(q.meta["grace"]) - q.now() - 1000) < 1000


def test_a_mark_of_the_first_release_is_taken_as_it_is(q: Queue) -> None:
    q.db.hset(q.keys.meta, mapping={"renew": 20_000, "seen": q.now() - 10_000})
    q.put("a")
    q.claim(0, lease_ms=3000)
    assert abs(int(q.meta["grace"]) - q.now() - 20_000) < 2000


def test_a_consumer_that_comes_rarely_gets_what_expired_the_second_time(q: Queue) -> None:
    """Once a minute it found a gap each time, and never got an expired lease."""
    claimed_and_away(q, 100_000)
    assert q.take(by="cron") == []
    for field in ("seen", "grace"):
        q.db.hincrby(q.keys.meta, field, -60_000)
    q.pass_time(60_000)
    assert len(q.take(by="cron")) == 2
    assert int(q.meta["grace"]) > q.now()


def test_gaps_within_a_grace_do_not_make_it_endless(q: Queue) -> None:
    """A short lease may be used by a consumer that comes every 10 s."""
    q.claim(0, lease_ms=3000)
    claimed_and_away(q, 100_000)
    found = []
    for _ in range(5):
        found += q.take(by="cron", lease_ms=3000)
        for field in ("seen", "grace", "had_grace"):
            q.db.hincrby(q.keys.meta, field, -8_000)
        q.pass_time(8_000)
    assert len(found) == 2


# ── after the clock was set ───────────────────────────────────────────────────────────────────

HOUR = 3_600_000


def set_back(q: Queue, ms: int = HOUR) -> None:
    """As if all that is stored had been written by a clock that was so far ahead."""
    for field in ("seen", "grace", "had_grace", "timer_at"):
        if q.meta.get(field, "0") != "0":
            q.db.hincrby(q.keys.meta, field, ms)
    q.pass_time(-ms)
    q.pass_time(-ms, of="delayed")


def test_forward_and_back_heals_the_grace(q: Queue) -> None:
    """Else nothing that expired is offered for an hour."""
    claimed_and_away(q, HOUR)
    assert q.take(by="thief") == []  # forward: as after an outage
    q.db.hincrby(q.keys.meta, "seen", HOUR)
    q.db.hincrby(q.keys.meta, "grace", HOUR)
    assert q.take(by="thief") == []
    assert int(q.meta["grace"]) <= q.now() + 20_000
    q.db.hset(q.keys.meta, "grace", q.now())
    assert len(q.take(by="heir")) == 2


def test_a_grace_that_is_too_far_ahead_is_cut_even_if_the_time_is_right(q: Queue) -> None:
    """The first release heals `seen` and leaves the grace."""
    claimed_and_away(q, 61_000)
    q.db.hset(q.keys.meta, mapping={"grace": q.now() + HOUR, "seen": q.now() - 1000})
    q.take(by="thief")
    assert int(q.meta["grace"]) <= q.now() + 20_000


@pytest.mark.parametrize("step", [1, 3])
def test_leases_given_by_a_clock_that_was_ahead_end_in_time(q: Queue, step: int) -> None:
    """A dead holder's messages would have come back an hour late."""
    q.put("a", "b", step=step)
    q.take(2)
    set_back(q)
    assert q.take(by="heir") == []
    assert {lease.deadline - q.now() <= 60_000 for lease in q.unacked.values()} == {True}
    assert abs(int(q.meta["seen"]) - q.now()) < 1000
    q.pass_time(60_000)
    q.db.hset(q.keys.meta, "seen", q.now())
    assert len(q.take(by="heir")) == 2


def test_a_holder_that_lives_keeps_its_lease_over_the_step(q: Queue) -> None:
    """Its lease may be longer than that of the consumer which notices the step."""
    q.put("a")
    (held,) = q.take(lease_ms=60_000)
    set_back(q)
    q.claim(by="thief", lease_ms=3000)
    assert q.unacked[held.receipt].deadline - q.now() > 55_000  # three of its renewals
    assert q.run(calls.extend(q.keys, [held.receipt], lease_ms=60_000)) == [calls.Verdict.DONE]


def test_a_holder_that_notices_the_step_leaves_it_to_the_next_claim(q: Queue) -> None:
    q.put("a", "b")
    held, dead = q.take(2)
    set_back(q)
    q.run(calls.extend(q.keys, [held.receipt], lease_ms=60_000))
    q.claim(0)
    assert q.unacked[dead.receipt].deadline - q.now() <= 60_000


def test_many_leases_are_set_right_a_thousand_at_a_time(q: Queue) -> None:
    for _ in range(3):
        q.put(*(f"{q.rig.next()}" for _ in range(800)))
        q.take(800)
    set_back(q)
    left = []
    for _ in range(4):
        q.claim(0)
        now = q.now()
        left.append(sum(lease.deadline - now > 61_000 for lease in q.unacked.values()))
    assert left == [1400, 400, 0, 0]
    assert abs(int(q.meta["seen"]) - now) < 1000


def test_after_a_step_back_new_delays_are_kept(q: Queue) -> None:
    """Delays given before it are as late as the step was long; those given after it are right."""
    q.put("early", delay_ms=30_000)
    q.claim()
    set_back(q)
    q.db.delete(q.keys.wake)
    q.put("soon", delay_ms=5000)
    assert q.tokens == 1
    assert (q.claim(by="another").wait_ms or 0) <= 5000


def test_after_a_step_back_ids_of_older_releases_take_their_turn(q: Queue) -> None:
    """Else an hour of them is kept."""
    q.db.hset(q.keys.meta, mapping={"calls_turn": q.now() // 1000 + 3600, "seen": q.now() + HOUR})
    q.claim(0)
    assert int(q.meta["calls_turn"]) <= q.now() // 1000


def test_ready_and_due_are_handed_out_in_the_grace(q: Queue) -> None:
    claimed_and_away(q, 100_000)
    q.put("ready")
    q.put("due", delay_ms=1)
    q.fall_due()
    assert names(q.take()) == ["due", "ready"]


def test_in_the_grace_what_looks_expired_wakes_nobody(q: Queue) -> None:
    claimed_and_away(q, 100_000)
    q.put("ready")
    assert names(q.take(1, by="thief")) == ["ready"]
    got = q.claim(0)
    assert (got.more, q.tokens) == ((), 0)


def test_a_short_lease_comes_back_though_claims_are_rare(q: Queue) -> None:
    """One consumer waits and claims once in 1.2 s; its claims are no outage to each other."""
    q.put("a")
    q.take(lease_ms=900)
    q.pass_time(1200)
    q.db.hincrby(q.keys.meta, "seen", -1200)
    assert names(q.take(by="waiter", lease_ms=900)) == ["a"]


def test_large_claims_of_messages_sent_as_one_call(q: Queue) -> None:
    outgoing = [Outgoing(msg(i, size=300), str(i), step=1 + i % 4) for i in range(1000)]
    q.run(calls.publish(q.keys, outgoing))
    got = q.take(1000)
    assert names(got) == [str(i) for step in range(4) for i in range(step, 1000, 4)]


# ── the plain way and the full one ────────────────────────────────────────────────────────────


SHORT = "local is_plain = pcall(plain_look, this, now) and this.take > 0"


def _in_full(q: Queue, call: Call[Claimed]) -> Claimed:
    """The same claim by the script without its short way."""
    text = scripts.get("claim").text
    assert SHORT in text
    sha = q.db.script_load(text.replace(SHORT, "local is_plain = false"))
    reply = q.db.execute_command("EVALSHA", sha, len(call.keys), *call.keys, *call.args)
    return call.parse(reply, call.repeated)


def _is_plain(q: Queue, call: Call[Claimed]) -> bool:
    """Whether this claim would go the short way; it is not made."""
    text = scripts.get("claim").text
    assert SHORT in text
    looked = "do return pcall(plain_look, this, now) and (this.take > 0 or this.is_idle) end"
    text = text.replace(SHORT, looked)
    return bool(q.db.eval(text, len(call.keys), *call.keys, *call.args))


def _stays_plain(q: Queue, call: Call[Claimed]) -> bool:
    """Whether this claim goes the short way, if it is made in time.

    What the last claim noted of the leases holds for 250 ms. A machine at work on other things lets
    them pass between two commands: it is noted again, as that claim did.
    """
    while not _is_plain(q, call):
        noted = int(q.meta.get("quiet", "0"))
        if not 0 < noted <= q.now():
            return False
        q.db.hset(q.keys.meta, "quiet", q.now() + 250)
    return True


def _primed(q: Queue, **more: Any) -> None:
    """Messages, and a claim in full that wrote down what it learned: the next one is plain."""
    q.put(*range(20))
    q.take(1, **more)
    assert _stays_plain(q, q.claiming(2, **more))


def _rested(q: Queue) -> None:
    """Messages, and none that is held: a claim is plain for seconds, and not for 250 ms alone."""
    q.put(*range(20))
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))


@pytest.mark.parametrize(
    ("at", "last", "beyond"),
    [
        pytest.param(0, "c" * 94 + "-1", "c" * 95 + "-1", id="claim_id"),
        pytest.param(1, 0, 1, id="attempt"),
        pytest.param(2, 1, 0, id="least limit"),
        pytest.param(2, 1000, 1001, id="limit"),
        pytest.param(2, "10", "1e1", id="no whole number"),
        pytest.param(3, 250, 249, id="least lease"),
        pytest.param(3, 31_622_400_000, 31_622_400_001, id="lease"),
        pytest.param(3, "60000", "0xea60", id="no decimal number"),
        pytest.param(5, "9" * 9, "9" * 10, id="deliveries"),
        pytest.param(5, "9", "", id="no deliveries"),
        pytest.param(6, 1 << 30, (1 << 30) + 1, id="max_bytes"),
        pytest.param(8, "9" * 11, "9" * 12, id="company"),
        pytest.param(8, "9", "", id="no company"),
        pytest.param(10, 0, 1, id="acks"),
    ],
)
def test_what_a_plain_claim_is_asked_is_within_bounds(
    q: Queue, at: int, last: object, beyond: object
) -> None:
    """What is beyond them is for the claim in full, which names what is wrong."""
    _rested(q)
    q.db.hset(q.keys.meta, "largest", 100)
    call = q.claiming(1)
    call.args[at] = last
    assert _is_plain(q, call)
    call.args[at] = beyond
    assert not _is_plain(q, call)


@pytest.mark.parametrize(("at", "wrong"), [(2, "1e1"), (3, "0xea60"), (5, "1e1"), (6, "0x99")])
def test_a_number_that_is_not_decimal_is_refused(q: Queue, at: int, wrong: str) -> None:
    _rested(q)
    call = q.claiming(1)
    call.args[at] = wrong
    with pytest.raises(InvalidArgument):
        q.run(call)
    assert len(q.ready) == 19


def test_a_plain_claim_takes_a_thousand_acks_and_has_the_keys_of_its_steps(q: Queue) -> None:
    _rested(q)
    acks = [f"me-{n}.0.1" for n in range(1000)]
    call = q.claiming(1, acks=[acks])
    assert _is_plain(q, call)
    call.args[10] = 1001
    assert not _is_plain(q, call)
    call.args.append("me-1001.0.1")
    assert not _is_plain(q, call)
    call = q.claiming(1)
    call.keys = [*call.keys, *[call.keys[-1]] * 2]  # one more is that of a cluster
    assert not _is_plain(q, call)


def test_a_plain_claim_looks_whether_the_queue_is_paused(q: Queue) -> None:
    _primed(q)
    q.run(calls.pause(q.keys))
    got = q.claim(2)
    assert (got.deliveries, got.more, q.tokens) == ([], (), 0)
    assert len(q.ready) == 19


def test_a_claim_of_a_queue_that_rested_is_plain_if_no_message_of_it_is_held(q: Queue) -> None:
    q.put(*range(9))
    receipt = q.take(1)[0].receipt
    ago = {"quiet": q.now() - 4000, "seen": q.now() - 4000}
    q.db.hset(q.keys.meta, mapping=ago)
    assert not _is_plain(q, q.claiming(2)), "its lease may have ended"
    q.run(calls.ack(q.keys, [receipt]))
    assert _is_plain(q, q.claiming(2))
    q.db.hset(q.keys.meta, "grace", q.now() + 9000)
    assert not _is_plain(q, q.claiming(2)), "the server was away"
    q.db.hdel(q.keys.meta, "grace")
    q.db.hset(q.keys.meta, "seen", q.now() - 40_000)
    assert not _is_plain(q, q.claiming(2)), "it may have been"
    q.db.hset(q.keys.meta, mapping=ago)
    assert names(q.take(2)) == ["1", "2"]


def test_a_claim_of_a_queue_of_which_no_rest_was_noted_is_plain_if_nothing_is_held(
    q: Queue,
) -> None:
    _rested(q)
    q.db.hdel(q.keys.meta, "quiet")
    assert _is_plain(q, q.claiming(1))
    q.take(1)
    q.db.hdel(q.keys.meta, "quiet")
    assert not _is_plain(q, q.claiming(1))


def test_a_rest_that_was_noted_by_a_clock_ahead_is_none(q: Queue) -> None:
    _rested(q)
    q.take(1)
    for off in (-1, 60_000):
        q.db.hset(q.keys.meta, mapping={"quiet": q.now() + off, "seen": q.now()})
        assert not _is_plain(q, q.claiming(1))


def test_a_plain_claim_answers_no_more_bytes_than_are_asked_for(q: Queue) -> None:
    _rested(q)
    q.db.hset(q.keys.meta, "largest", 100)
    assert _is_plain(q, q.claiming(3, max_bytes=300))
    assert not _is_plain(q, q.claiming(3, max_bytes=299))
    q.db.hdel(q.keys.meta, "largest")
    assert _is_plain(q, q.claiming(1, max_bytes=300)), "one is always handed out"
    assert not _is_plain(q, q.claiming(2, max_bytes=300)), "how large they are is not known"


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_plain_claim_says_what_waits_in_each_other_step(q: Queue, step: int) -> None:
    _primed(q)
    q.put("low", step=step)
    assert q.claim(19).more == ("q",)
    assert q.tokens == 1


def test_a_plain_claim_looks_for_what_ended_behind_its_step(q: Queue) -> None:
    _primed(q)
    q.put("low", step=3)
    low = q.take(20)[-1]
    assert low.step == 3
    q.run(calls.ack(q.keys, [receipt for receipt in q.unacked if receipt != low.receipt]))
    q.expire()
    q.put("a", "b")
    q.db.hset(q.keys.meta, "seen", q.now())
    assert q.claim(2).more == ("q",)
    assert q.tokens == 1


@pytest.mark.parametrize("off", [-5000, 100_000], ids=["long ago", "in the future"])
def test_plain_claims_are_seen_too(q: Queue, off: int) -> None:
    """Else a busy queue looks like one whose server was away: a grace without an outage."""
    _primed(q)
    q.db.hset(q.keys.meta, mapping={"seen": q.now() + off, "quiet": q.now() + off + 250})
    assert len(q.take(2)) == 2
    assert abs(int(q.meta["seen"]) - q.now()) < 2000


@pytest.mark.parametrize("times", [1, BEYOND_RETRIES])
def test_an_attempt_that_comes_twice_finds_all_it_has(q: Queue, times: int) -> None:
    """The last one is sent again as it is, though some of what it got has been settled."""
    q.put(*range(5))
    call = q.claiming()
    for _ in range(times):
        call = call.again()
    got = [each.receipt for each in q.run(call).deliveries]
    q.run(calls.ack(q.keys, got[:4]))
    assert [each.receipt for each in q.run(call).deliveries] == got[4:]


def test_a_retry_where_a_plain_claim_would_do_has_receipts_of_its_own(q: Queue) -> None:
    """Those of the first attempt may have been acked: a receipt is never used for two messages."""
    _primed(q)
    call = q.claiming(2)
    q.run(calls.ack(q.keys, [each.receipt for each in q.run(call).deliveries]))
    got = q.run(call.again()).deliveries
    assert [each.receipt[-4:] for each in got] == [".1.1", ".1.2"]


def test_a_plain_claim_tells_how_often_its_holder_renews(q: Queue) -> None:
    _primed(q, lease_ms=3000)
    q.take(2, lease_ms=60_000)
    assert q.meta["renew"] == "20000"


def test_a_plain_claim_tells_how_many_steps_its_fleet_has(rig: Rig, q: Queue) -> None:
    few = rig.queue("q", steps=(0,))
    _primed(few)
    q.take(2)
    assert q.meta["steps"] == "4"


@pytest.mark.parametrize("what", ["claim", "extend", "claim of several"])
def test_what_ends_soon_is_looked_for(rig: Rig, q: Queue, what: str) -> None:
    """A plain claim does not look for a while: a lease that may end before that says so."""
    _primed(q)
    if what == "claim":
        (soon,) = q.take(1, lease_ms=100)
    elif what == "extend":
        (soon,) = q.take(1)
        q.run(calls.extend(q.keys, [soon.receipt], lease_ms=100))
    else:
        both = [q.keys] if rig.layout == "cluster" else [rig.queue("other").keys, q.keys]
        (soon,) = q.run(calls.claim(both, "me-1", limit=1, lease_ms=100)).deliveries
    while q.unacked[soon.receipt].deadline >= q.now():
        pass
    (got,) = q.take(1)
    assert (name_of(got), got.deliveries) == (name_of(soon), 2)


def test_a_claim_is_not_plain_while_a_lease_is_about_to_end(q: Queue) -> None:
    _primed(q)
    (held,) = q.take(1)
    q.db.zadd(q.keys.unacked, {held.receipt: q.now() + 200})
    q.db.hdel(q.keys.meta, "quiet")
    q.take(1)
    assert not _is_plain(q, q.claiming(1))


def test_a_plain_claim_gives_back_what_is_larger_than_any_before(q: Queue) -> None:
    """Stock tells nobody how large its messages are: five of 2 MB are no answer of 1 MiB."""
    _primed(q)
    q.db.delete(*q.keys.ready)
    q.db.lpush("q", *(msg(i, size=2_000_000) for i in range(5)))
    assert [names(q.take(100)) for _ in range(5)] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert int(q.meta["largest"]) > 2_000_000


def _past(q: Queue, turn: int) -> None:
    """Some that have a long life behind them: see `Queue.write`."""
    place = ("ready", "unacked", "delayed", "apart")[turn // 3 % 4]
    for i in range(turn % 4 + 1):
        more: dict[str, Any] = {"step": turn % 3 + 1, "stale": turn % 5 == 0}
        more |= {"deliveries": (turn + i) % 6, "spared": turn // 4 % 4}
        more |= {"alone": place == "apart" or turn % 2 == 0, "at": q.now() - 10_000 + i}
        q.write(place, msg(f"{turn} past {i}"), name=f"z-{turn}.0.{i}", **more)


# Something that a claim may meet, given the number of the turn and what is held.
HAPPENINGS: dict[str, Callable[[Queue, int, list[str]], object]] = {
    "put": lambda q, n, _: q.put(*(f"{n}.{i}" for i in range(n % 7 + 1))),
    "stock": lambda q, n, _: q.db.lpush(
        q.keys.ready[0], msg(n, size=n * 100), tracked_msg(f"{n} too")
    ),
    "odd": lambda q, n, _: q.db.lpush(
        q.keys.ready[0], b"no message", b'{"x-deliveries":2,"body":"%d"}' % n
    ),
    "low": lambda q, n, _: q.put(*(f"{n} low {i}" for i in range(n % 5 + 1)), step=2 + n // 2 % 3),
    "delay": lambda q, n, _: q.put(f"{n} later", delay_ms=60_000),
    "time": lambda q, n, _: q.fall_due() if n % 2 else q.expire(),
    "pause": lambda q, n, _: q.run(calls.pause(q.keys, paused=n % 4 == 0)),
    "past": lambda q, n, _: _past(q, n),
    "hold": lambda q, n, held: q.run(
        calls.extend(q.keys, held[-3:] or ["never"], lease_ms=60_000, beside=n % 2 == 0)
    ),
    "give back": lambda q, n, held: q.run(
        calls.release(
            q.keys,
            [(receipt, "") for receipt in held[-3:] or ["never"]],
            front=n % 2 == 0,
            counted=n % 3 == 0,
        )
    ),
    "once": lambda q, n, _: q.put(*(f"once {i}" for i in range(n % 5 + 1)), dedup=True),
    "cancel": lambda q, _, held: q.run(
        calls.revoke(q.keys, "any", receipt=held[-1] if held else "never")
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(40 if LONG else 4))
def test_plain_claims_do_what_claims_in_full_do(rig: Rig, seed: int) -> None:
    """What nearly all claims are has a short way of its own, to the same end."""
    chance = random.Random(seed)
    ours, full = rig.queue("ours"), rig.queue("full")
    held: list[str] = []
    short = 0
    for turn in range(150):
        if turn % 30 == 0:  # some of what may happen, so that not every queue has met all of it
            happenings = ["put", "put", *chance.sample([*HAPPENINGS], chance.randrange(2, 6))]
            parts = dict.fromkeys(("ready", "delayed", "unacked", "dead", "settings"), True)
            for q in (ours, full):
                q.run(calls.purge(q.keys, **parts))
            held.clear()
        what = chance.choice((chance.choice(happenings), "claim"))
        if what != "claim":
            for q in (ours, full):
                HAPPENINGS[what](q, turn, held)
            continue
        limit, size = chance.choice((1, 1, 2, 3, 8, 64)), chance.choice((1 << 20, 1 << 20, 9000))
        acks = chance.sample(held, min(len(held), chance.randrange(4)))
        acks += chance.choice(([], [], [], ["never-1.0.1"], acks[:1]))
        more = {
            "claim_id": f"{'me' if turn % 3 else 'you'}-{turn}",
            "max_bytes": size,
            "max_deliveries": 3,
            "company": chance.choice((SOLE, SOLE, HOLDS, 2000)),
        }
        claims = [q.claiming(limit, acks=[acks], **more) for q in (ours, full)]
        short += _is_plain(ours, claims[0])
        got, same = ours.run(claims[0]), _in_full(full, claims[1])
        told = [(d.receipt, d.deliveries, d.step, d.envelope.raw) for d in got.deliveries]
        assert told == [(d.receipt, d.deliveries, d.step, d.envelope.raw) for d in same.deliveries]
        assert [at for _, at in got.lost_acks] == [at for _, at in same.lost_acks]
        assert len(got.more) == len(same.more)
        assert (got.wait_ms is None, got.alone) == (same.wait_ms is None, same.alone)
        assert [each.raw for each in got.dead_lettered] == [each.raw for each in same.dead_lettered]
        held += [delivery.receipt for delivery in got.deliveries]
        for part in ("ready", "tokens", "stats"):
            assert getattr(ours, part) == getattr(full, part), part
        for part in ("unacked", "delayed"):
            assert {r: (v.deliveries, v.step, v.raw) for r, v in getattr(ours, part).items()} == {
                r: (v.deliveries, v.step, v.raw) for r, v in getattr(full, part).items()
            }
        held = [receipt for receipt in held if receipt in ours.unacked]
        alone = [
            {
                receipt
                for receipt, score in q.db.zrange(q.keys.unacked, 0, -1, withscores=True)
                if score % 1
            }
            for q in (ours, full)
        ]
        assert alone[0] == alone[1]
        assert [letter.raw for letter in ours.dead] == [letter.raw for letter in full.dead]
        metas = ours.meta, full.meta
        for field in ("paused", "largest", "steps", "renew", "timer_by"):
            assert metas[0].get(field) == metas[1].get(field), field
        assert len({meta.get("timer_at", "0") == "0" for meta in metas}) == 1
    assert short > 5, short


def _ran(q: Queue, call: Call[Claimed], *, is_plain: bool = True) -> tuple[Claimed, int]:
    """A claim, and how many commands it ran inside."""
    assert (_stays_plain if is_plain else _is_plain)(q, call) is is_plain
    q.db.config_resetstat()
    claimed: Claimed = q.run(call)
    beside = ("cmdstat_config", "cmdstat_info", "cmdstat_evalsha")
    stats: dict[str, Any] = q.db.info("commandstats")
    return claimed, sum(n["calls"] for name, n in stats.items() if not name.startswith(beside))


def test_a_claim_beside_delayed_messages_is_plain(q: Queue) -> None:
    """It took the long way, 35 commands, at each message of every queue with retries."""
    q.put("later", "last", delay_ms=60_000)
    q.put("a", "b", "c", "d")
    (first,) = q.take(1)
    got, ran = _ran(q, q.claiming(1, acks=[[first.receipt]]))
    assert (names(got.deliveries), got.wait_ms, ran) == (["b"], None, 12)
    got, ran = _ran(q, q.claiming(2))
    assert (names(got.deliveries), got.more, got.wait_ms) == (["c", "d"], (), None)
    assert ran == 14
    assert q.tokens == 1, "another consumer has to keep the time"


def test_one_claim_in_a_while_looks_whether_anything_is_held(q: Queue) -> None:
    """Each did, where all is acked before the next claim: two commands more."""
    q.put("a", "b", "c", "d")
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    q.db.hset(q.keys.meta, mapping={"quiet": q.now() - 1000, "seen": q.now() - 1000})
    for commands in (12, 9):
        got, ran = _ran(q, q.claiming(1))
        assert ran == commands
        q.run(calls.ack(q.keys, [each.receipt for each in got.deliveries]))


def test_a_claim_is_plain_beside_a_lease_of_another_step(q: Queue) -> None:
    """Not one was, for as long as a message of another step was held."""
    q.put("low", step=2)
    (low,) = q.take(1)
    q.put("a", "b", "c")
    q.db.hset(q.keys.meta, mapping={"quiet": q.now() - 1000, "seen": q.now() - 1000})
    q.claim(1)
    assert _stays_plain(q, q.claiming(1))
    q.run(calls.extend(q.keys, [low.receipt], lease_ms=100))
    q.claim(1)
    assert not _is_plain(q, q.claiming(1)), "it ends soon"
    q.pass_one_lease(low.receipt)
    assert names(q.take()) == ["c", "low"]


def test_a_claim_of_a_later_step_is_plain(q: Queue) -> None:
    """It took the long way, 31 commands: each but those of the first step did."""
    q.put("next", "last", step=3)
    q.put("low", step=4)
    q.put("first")
    q.take(1)
    before = q.now()
    got, ran = _ran(q, q.claiming(1))
    assert (names(got.deliveries), got.more, ran) == (["next"], ("q",), 14)
    (delivery,) = got.deliveries
    held = q.unacked[delivery.receipt]
    assert (delivery.step, held.deliveries, held.step) == (3, 1, 3)
    assert before + 60_000 <= held.deadline <= q.now() + 60_000
    q.put("later", step=3, delay_ms=60_000)
    assert not _is_plain(q, q.claiming(1)), "it may be due before"
    assert q.run(calls.cancel(q.keys, ["later"])) == [calls.Verdict.DONE]
    assert not _is_plain(q, q.claiming(2)), "the last of a step, and one of the next"
    assert [names(q.take(2)), q.tokens, q.take()] == [["last", "low"], 0, []]


def test_what_is_due_is_asked_for_once(q: Queue) -> None:
    """It was counted when the queue was read, and again before it was taken and after."""
    q.put("a", "b", "c", delay_ms=60_000)
    q.pass_time(60_000, of="delayed")
    q.claim(1)
    got, ran = _ran(q, q.claiming(1), is_plain=False)
    assert (names(got.deliveries), got.more, ran) == (["b"], ("q",), 23)
    q.pass_time(60_000)
    q.claim(1)
    got, ran = _ran(q, q.claiming(1), is_plain=False)
    assert (got.deliveries[0].deliveries, got.more, ran) == (2, ("q",), 22)


def test_behind_the_last_message_the_time_stays_with_the_consumer_that_keeps_it(q: Queue) -> None:
    q.put("later", delay_ms=60_000)
    assert q.claim(by="keeper").wait_ms is not None
    q.put("a", "b")
    got, ran = _ran(q, q.claiming(2, by="worker"))
    assert (names(got.deliveries), q.tokens, ran) == (["a", "b"], 0, 16)
    assert q.meta["timer_by"] == "keeper"
    q.put("c")
    got, ran = _ran(q, q.claiming(2, by="keeper"))
    assert (names(got.deliveries), q.tokens, q.meta["timer_at"], ran) == (["c"], 1, "0", 15)
    q.put("sooner", delay_ms=30_000)
    assert q.claim(by="keeper").wait_ms is not None
    q.put("soonest", delay_ms=10_000)
    q.put("d")
    got, ran = _ran(q, q.claiming(2, by="worker"))
    assert (names(got.deliveries), q.tokens, q.meta["timer_at"]) == (["d"], 1, "0")
    q.put("e")
    q.db.hset(q.keys.meta, "quiet", q.now() + 250)  # as the last claim noted it
    got, ran = _ran(q, q.claiming(2, by="worker"))
    assert (names(got.deliveries), q.tokens, ran) == (["e"], 1, 14), "that is known already"


def test_a_claim_that_finds_nothing_takes_the_acks_and_keeps_the_time(q: Queue) -> None:
    q.put("a", "b")
    held = [each.receipt for each in q.take(2)]
    got, ran = _ran(q, q.claiming(1, acks=[[held[0], "stale"]]))
    assert (got.deliveries, [at for _, at in got.lost_acks], got.more) == ([], ["stale"], ())
    assert list(q.unacked) == held[1:]
    q.put("later", delay_ms=60_000)
    got, ran = _ran(q, q.claiming(1, by="keeper", acks=[held[1:]]))
    assert (got.deliveries, q.unacked, q.tokens, q.meta["timer_by"]) == ([], {}, 0, "keeper")
    assert 59_000 < (got.wait_ms or 0) <= 60_000
    assert q.stats["acked"] == 2
    got, ran = _ran(q, q.claiming(1, by="other"))
    assert (got.wait_ms, ran) == (None, 11)
    got, ran = _ran(q, q.claiming(1, by="keeper"))
    assert (got.wait_ms is None, ran) == (False, 11)


def test_a_claim_of_a_later_step_is_plain_unless_one_message_is_delayed(q: Queue) -> None:
    q.put("a", "b", step=3)
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    q.db.hset(q.keys.meta, mapping={"quiet": q.now() - 1000, "seen": q.now()})
    got, ran = _ran(q, q.claiming(1))
    assert (names(got.deliveries), q.tokens, ran) == (["b"], 0, 18), "though it is the last one"
    q.run(calls.ack(q.keys, [each.receipt for each in got.deliveries]))
    q.put("c", step=3)
    q.put("later", delay_ms=60_000)
    assert not _is_plain(q, q.claiming(1)), "another consumer has to keep its time"
    assert (names(q.take(1)), q.tokens) == (["c"], 1)


@pytest.mark.parametrize("step", [9, 10])
def test_a_plain_claim_knows_steps_of_two_digits(rig: Rig, step: int) -> None:
    q = rig.queue("q", steps=range(10))
    q.put(*range(3), step=step)
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    call = q.claiming(1)
    assert _is_plain(q, call)
    (got,) = q.run(call).deliveries
    held = q.unacked[got.receipt]
    assert (name_of(got), got.step, held.step) == ("1", step, step)


def test_a_claim_that_leaves_one_message_of_a_step_is_plain_beside_others(q: Queue) -> None:
    _rested(q)
    q.put("low", step=3)
    assert _is_plain(q, q.claiming(18))
    assert q.claim(18).more == ("q",)
    assert not _is_plain(q, q.claiming(2))


def test_a_claim_of_the_last_message_takes_the_token_away(q: Queue) -> None:
    q.put("a", "b")
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    assert q.tokens == 1
    assert _is_plain(q, q.claiming(1))
    assert (names(q.take(1)), q.tokens) == (["b"], 0)


def test_a_claim_that_finds_nothing_looks_for_what_ended_though_its_ack_is_stale(q: Queue) -> None:
    q.put("a")
    (held,) = q.take(1)
    q.pass_one_lease(held.receipt)
    got = q.claim(1, acks=[["never-1.0.1"]])
    assert (names(got.deliveries), len(got.lost_acks)) == (["a"], 1)


@pytest.mark.parametrize("acks", [1, 2])
@pytest.mark.parametrize("key", ["unacked", "records"])
def test_acks_on_a_key_of_another_type_take_nothing(q: Queue, key: str, acks: int) -> None:
    _rested(q)
    ready = q.ready
    q.db.set(getattr(q.keys, key), "no")
    with pytest.raises(WrongType):
        q.claim(1, acks=[["me-1.0.1", "me-2.0.1"][:acks]])
    assert q.ready == ready
    q.db.delete(getattr(q.keys, key))


def test_a_claim_of_an_empty_queue_asks_little(q: Queue) -> None:
    q.put("a", "b")
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(2)]))
    q.db.hset(q.keys.meta, mapping={"quiet": q.now() - 1000, "seen": q.now()})
    assert _ran(q, q.claiming(1))[1] == 5
    q.db.rpush(q.keys.wake, "1")
    assert _ran(q, q.claiming(1))[1] == 10
    assert q.tokens == 0


@pytest.mark.parametrize("how", ["due", "of another step"])
def test_a_claim_is_not_plain_if_what_is_delayed_comes_next(q: Queue, how: str) -> None:
    q.put("a", "b")
    q.take(1)
    q.put("later", delay_ms=1000, step=1 if how == "due" else 3)
    if how == "due":
        q.fall_due()
    assert not _is_plain(q, q.claiming(2))
    assert len(q.take(2)) == (2 if how == "due" else 1)
    is_plain = _stays_plain if how == "due" else _is_plain
    assert is_plain(q, q.claiming(2)) == (how == "due")


@pytest.mark.parametrize(
    ("limit", "ready", "company", "mark"),
    [
        (1, 3, calls.SOLE, 0.5),
        (1, 3, calls.HOLDS, 0),
        (2, 3, calls.SOLE, 0),
        (2, 1, calls.SOLE, 0.5),
        (9, 1, calls.SOLE, 0.5),
        (9, 1, calls.HOLDS, 0),
    ],
)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("in_full", [False, True], ids=["plain", "in full"])
def test_what_goes_alone_is_marked(
    q: Queue, limit: int, ready: int, company: int, mark: float, step: int, in_full: bool
) -> None:
    q.put(*range(1 + ready), step=step)
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    if in_full:
        q.db.delete(q.keys.meta)
    call = q.claiming(limit, company=company)
    assert _is_plain(q, call) is not in_full
    got = q.run(call).deliveries
    scores = dict(q.db.zrange(q.keys.unacked, 0, -1, withscores=True))
    ends = [q.unacked[each.receipt].since + 60_000 + (step - 1) * BAND + mark for each in got]
    assert [scores[each.receipt.encode()] for each in got] == ends
    assert len(ends) == min(limit, ready)


@pytest.mark.parametrize("in_full", [False, True], ids=["plain", "in full"])
def test_acks_that_found_something_are_counted_and_no_others(q: Queue, in_full: bool) -> None:
    _rested(q)
    held = [each.receipt for each in q.take(2)]
    if in_full:
        q.db.delete(q.keys.meta)
    call = q.claiming(5, acks=[[held[0], "stale", held[1]]])
    assert _is_plain(q, call) is not in_full
    before = q.stats["acked"]
    assert q.run(call).lost_acks == (("q", "stale"),)
    assert q.stats["acked"] == before + 2


@pytest.mark.parametrize("many", [1, 2, 3])
def test_a_plain_claim_takes_the_acks(q: Queue, many: int) -> None:
    q.put(*range(6))
    held = [each.receipt for each in q.take(3)]
    call = q.claiming(1, acks=[held[:many]])
    q.db.hset(q.keys.meta, "quiet", q.now() + 250)  # as the last claim noted it
    assert _stays_plain(q, call)
    got = q.run(call)
    assert (names(got.deliveries), got.lost_acks, q.stats["acked"]) == (["3"], (), many)
    assert set(q.unacked) == {*held[many:], got.deliveries[0].receipt}


def test_messages_that_are_all_of_one_size_are_plain(q: Queue) -> None:
    q.put(*[msg(i, size=20_000) for i in range(3)])
    q.run(calls.ack(q.keys, [each.receipt for each in q.take(1)]))
    q.db.hset(q.keys.meta, mapping={"quiet": q.now() - 1000, "seen": q.now() - 1000})
    got, ran = _ran(q, q.claiming(1))
    assert (names(got.deliveries), ran) == (["1"], 12)


@pytest.mark.parametrize(("limit", "left", "commands"), [(18, 1, 11), (19, 0, 13), (20, 0, 13)])
def test_a_plain_claim_leaves_a_token_where_it_leaves_a_message(
    q: Queue, limit: int, left: int, commands: int
) -> None:
    _rested(q)
    q.db.delete(q.keys.wake)
    q.db.hset(q.keys.meta, "quiet", q.now() + 250)  # as the last claim noted it
    got, ran = _ran(q, q.claiming(limit))
    assert (got.more, q.tokens, len(q.ready), ran) == (("q",) * left, left, left, commands)


@pytest.mark.parametrize(("many", "answer"), [(1, bytes), (2, list)])
@pytest.mark.parametrize("in_full", [False, True], ids=["plain", "in full"])
def test_a_claim_of_one_is_answered_with_one_text(
    q: Queue, many: int, answer: type, in_full: bool
) -> None:
    _rested(q)
    if in_full:
        q.db.delete(q.keys.meta)
    call = q.claiming(many)
    assert _is_plain(q, call) is not in_full
    args = (call.script.sha, len(call.keys), *call.keys, *call.args)
    assert type(q.db.execute_command("EVALSHA", *args)) is answer


def test_a_claim_in_full_says_of_messages_that_are_alike_once_what_they_are(q: Queue) -> None:
    """Four numbers would follow each of a thousand."""
    q.put(*range(9))
    call = q.claiming(9)
    assert not _is_plain(q, call)
    sha = q.db.script_load(call.script.text)
    head, *_ = q.db.execute_command("EVALSHA", sha, len(call.keys), *call.keys, *call.args)
    assert head.split()[1:] == b"-1 0 0 0 1 1 1 1 9".split()


def test_few_are_taken_out_while_their_sizes_are_unknown(q: Queue) -> None:
    """What is larger than any before goes back; of a thousand, that might be gigabytes."""
    _rested(q)
    q.db.delete(*q.keys.ready)
    q.db.lpush("q", *(msg(i, size=2_000_000) for i in range(6)))
    got, _ = _ran(q, q.claiming(100))
    assert names(got.deliveries) == ["0"]
    stats: dict[str, Any] = q.db.info("commandstats")
    assert stats["cmdstat_rpush"]["calls"] == 4 + 3, "of the plain claim, and of that in full"


@pytest.mark.parametrize("is_odd", [False, True], ids=["plain", "in full"])
@pytest.mark.parametrize(("claims", "acks"), [(True, True), (True, False), (False, True)])
def test_where_tracked_messages_are_is_written_as_it_is(
    q: Queue, claims: bool, acks: bool, is_odd: bool
) -> None:
    """Those that a plain claim leases, or gives back for the claim in full, and those it acks."""
    q.put("first")
    q.take(1)
    q.db.lpush(q.keys.ready[0], *(tracked_msg(name) for name in "ab"))
    held = q.take(2)
    made = tracked_msg if claims else msg
    ready = [msg("c"), made("d"), msg("e"), made("f")]
    if is_odd:
        ready.append(b'{"x-deliveries":2,"body":"g"}')
    q.db.lpush(q.keys.ready[0], *ready)
    q.db.delete(*q.keys.tracked)
    call = q.claiming(5, acks=[[each.word for each in held]] if acks else None)
    q.db.hset(q.keys.meta, "quiet", q.now() + 250)  # as the last claim noted it
    assert _stays_plain(q, call)
    before = q.db.time()
    got = q.run(call).deliveries
    after = q.db.time()
    assert names(got) == ["c", "d", "e", "f", "g"][: 4 + is_odd]
    (key,) = [key for key in q.keys.tracked if q.db.exists(key)]
    found = {name: text.split(b" ") for name, text in q.db.hgetall(key).items()}
    wanted = {b"a": (b"a", ""), b"b": (b"a", "")} if acks else {}
    if claims:
        wanted |= {b"d": (b"h", got[1].receipt), b"f": (b"h", got[3].receipt)}
    assert {name: (state, of.decode()) for name, (state, _, of) in found.items()} == wanted
    (when,) = {int(us) for _, us, _ in found.values()}
    assert before[0] * 1_000_000 + before[1] <= when <= after[0] * 1_000_000 + after[1]


def test_each_large_claim_collects_its_own_garbage(q: Queue) -> None:
    """Else the heap of the scripts doubles first (2.1 times), and one call in six pays for all."""
    for first in (0, 1000):
        q.put(*range(first, first + 1000))
        q.take(1000)
    q.expire()
    q.db.script_flush()
    sizes = []
    for _ in range(25):
        assert len(q.take(64)) == 64
        memory: dict[str, Any] = q.db.info("memory")
        sizes.append(memory.get("used_memory_vm_eval") or memory["used_memory_lua"])
    live = min(sizes[5:])
    assert max(sizes[5:]) < 1.6 * live, f"{sizes}, bytes"


def test_a_server_that_leaves_the_collector_out_is_claimed_from_all_the_same(q: Queue) -> None:
    q.put(*range(20))
    q.take(20)
    q.expire()
    call = q.claiming(20)
    text = call.script.text.replace('"collectgarbage"', '"left_out"')
    assert text != call.script.text
    reply = q.db.eval(text, len(call.keys), *call.keys, *call.args)
    assert len(call.parse(reply, call.repeated).deliveries) == 20
