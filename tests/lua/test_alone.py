"""Ends without a word: which of them count, and what has to go alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atomq import calls, flows
from atomq.calls import HOLDS, Verdict
from atomq.flows import BEYOND_RETRIES
from tests.lua.rig import BAND, Queue, Rig, msg, name_of, names, tracked_msg

DONE = Verdict.DONE
OLDER = Path(__file__).parent / "older" / "claim.lua"


def twice(q: Queue, *bodies: str) -> None:
    """These have ended without a word twice, while their consumer held all of them."""
    q.put(*bodies)
    for _ in range(2):
        q.take()
        q.expire()


def apart(q: Queue) -> list[str]:
    """What waits to go alone, in its order."""
    return list(apart_as(q))


def apart_as(q: Queue) -> dict[str, str]:
    """The receipts of what waits to go alone."""
    return {
        name_of(q.unacked[receipt.decode()].raw): receipt.decode()
        for receipt in q.db.zrange(q.keys.unacked, 10 * BAND, "+inf", byscore=True)
    }


def test_an_end_in_company_is_spared(q: Queue) -> None:
    q.put("a", "b")
    assert [(got.deliveries, got.charged) for got in q.take()] == [(1, 1)] * 2
    q.expire()
    got = q.take()
    assert [(each.deliveries, each.spared, each.charged) for each in got] == [(2, 1, 1)] * 2
    assert q.stats["expired"] == 2


def test_the_second_time_it_goes_alone(q: Queue) -> None:
    twice(q, "a", "b", "c")
    q.put("new")
    for body in ("a", "b", "c"):
        claimed = q.claim()
        (got,) = claimed.deliveries
        assert (name_of(got), got.deliveries, got.charged) == (body, 3, 1)
        assert claimed.alone
        assert claimed.more == ("q",)
        assert q.tokens == 1
        q.run(calls.ack(q.keys, [got.receipt]))
    assert names(q.take()) == ["new"]


def test_an_end_that_it_met_alone_counts(q: Queue) -> None:
    q.put("a")
    for deliveries in range(1, 4):
        (got,) = q.take(max_deliveries=3)
        assert (got.deliveries, got.charged) == (deliveries, deliveries)
        q.expire()
    assert q.take(max_deliveries=3) == []
    assert [(letter.reason, letter.deliveries) for letter in q.dead] == [("max_deliveries", 3)]


def test_what_went_alone_goes_alone_again_and_ends(q: Queue) -> None:
    twice(q, "a", "b")
    for charged in range(1, 4):
        (got,) = q.take(max_deliveries=3)
        assert (name_of(got), got.charged) == ("a", charged)
        q.pass_one_lease(got.receipt)
        q.put("new")
        (new,) = q.take(1, company=HOLDS, max_deliveries=3)
        assert name_of(new) == "new", "it waits, and so does b"
        q.run(calls.ack(q.keys, [new.receipt]))
        if charged < 3:
            q.pass_one_lease(apart_as(q)["a"])
    assert names(q.take(max_deliveries=3)) == ["b"]
    assert [(name_of(d.raw), d.reason, d.deliveries) for d in q.dead] == [
        ("a", "max_deliveries", 5)
    ]


@pytest.mark.parametrize("in_full", [False, True])
def test_company_that_comes_later_is_company(q: Queue, in_full: bool) -> None:
    q.put("a")
    if in_full:
        q.put("later", delay_ms=60_000)
    (got,) = q.take(1)
    (score,) = (score for _, score in q.db.zrange(q.keys.unacked, 0, -1, withscores=True))
    assert score % 1 == 0.5
    assert q.run(calls.extend(q.keys, [got.receipt], lease_ms=60_000, beside=True)) == [DONE]
    assert q.run(calls.extend(q.keys, [got.receipt], lease_ms=60_000)) == [DONE]
    q.expire()
    (got,) = q.take(1)
    assert (got.deliveries, got.charged) == (2, 1)


def test_a_claimer_that_holds_others_leaves_it_and_one_is_asked_to_hold_nothing(q: Queue) -> None:
    twice(q, "a", "b")
    claimed = q.claim(company=2000)
    assert (claimed.deliveries, claimed.drain_ms, claimed.more, q.tokens) == ([], 0, ("q",), 1)
    assert apart(q) == ["a", "b"]
    claimed = q.claim(company=2000)
    assert (claimed.drain_ms, claimed.more, q.tokens) == (0, (), 0), "an idle one looks first"
    q.pass_time(1500)
    assert not q.claim(company=HOLDS).drain_ms, "it will not"
    assert q.claim(company=2000, by="d").drain_ms
    assert not q.claim(company=2000, by="e").drain_ms, "one is enough"
    assert 0 < int(q.meta["drain_until"]) - q.now() <= 2000
    q.db.hincrby(q.keys.meta, "drain_until", -2000)
    assert q.claim(company=500, by="e").drain_ms == 4000, "it did not come in time: twice as long"
    assert names(q.take(by="e")) == ["a"]
    assert q.meta["drain_until"] == "0"
    assert q.claim(company=500, by="d").drain_ms == 2000, "and for the next one"


@pytest.mark.parametrize("company", [2, 2000])
def test_one_is_asked_to_claim_nothing_for_as_long_as_it_says(q: Queue, company: int) -> None:
    twice(q, "a", "b")
    q.claim(company=HOLDS)
    q.pass_time(1500)
    assert q.claim(company=company).drain_ms == company


@pytest.mark.parametrize("step", [1, 2, 10])
def test_one_is_asked_for_what_waits_to_go_alone_and_not_for_what_ended(
    rig: Rig, step: int
) -> None:
    q = rig.queue("q", steps=range(10))
    twice(q, "a", "b")
    q.claim(company=HOLDS)
    q.put("c", step=step)
    (held,) = q.take(company=HOLDS)
    q.pass_one_lease(held.receipt)
    claimed = q.claim(company=2000)
    assert (names(claimed.deliveries), claimed.drain_ms) == (["c"], 0)


def test_however_many_consumers_there_are_one_has_enough_time_soon(q: Queue) -> None:
    twice(q, "a", "b")
    q.claim(company=1000)
    q.pass_time(1500)
    asked = []
    for n in range(20):
        asked.append(q.claim(company=1000, by=f"c{n}").drain_ms)
        q.db.hset(q.keys.meta, "drain_until", "1")
    assert asked[:5] == [1000, 2000, 4000, 8000, 16000]
    assert asked[-1] == 3_600_000, "and no more than an hour"


def test_the_retry_of_a_claim_that_handed_out_one_alone(q: Queue) -> None:
    twice(q, "a", "b")
    call = q.claiming()
    first = q.run(call)
    again = q.run(call.again())
    assert [each.receipt for each in again.deliveries] == [
        each.receipt for each in first.deliveries
    ]
    assert again.alone
    assert sorted(q.places()) == ["a", "b"]


@pytest.mark.parametrize("way", ["ready", "delayed"])
def test_given_back_it_still_goes_alone(q: Queue, way: str) -> None:
    twice(q, "a")
    q.db.zadd(q.keys.unacked, dict.fromkeys(q.unacked, 1.0))  # not alone, then
    (got,) = q.take()
    assert got.spared == 1
    q.run(calls.extend(q.keys, [got.receipt], lease_ms=0, beside=True))
    (got,) = q.take()
    assert (got.spared, got.deliveries) == (2, 4)
    item = [(got.receipt, "a")]
    q.run(calls.release(q.keys, item, delay_ms=60_000 if way == "delayed" else 0, counted=False))
    q.fall_due()
    q.put("new")
    before = q.stats["delivered"]
    assert names(q.take(company=HOLDS)) == ["new"]
    assert apart(q) == ["a"]
    assert q.stats["delivered"] == before + 1
    (got,) = q.take()
    assert (name_of(got), got.spared, got.deliveries) == ("a", 2, 4)


def test_a_holder_that_lives_keeps_what_was_set_apart(q: Queue) -> None:
    q.put("a", "b")
    q.take()
    q.expire()
    held = [each.receipt for each in q.take()]
    q.expire()
    assert q.take(company=HOLDS) == []
    assert q.run(calls.extend(q.keys, held, lease_ms=60_000)) == [DONE, DONE]
    assert q.take() == []
    assert q.run(calls.ack(q.keys, held)) == [DONE, DONE]
    assert q.places() == {}


def test_it_goes_before_its_step_and_after_those_before(q: Queue) -> None:
    q.put("low", "lower", step=2)
    for _ in range(2):
        q.take()
        q.expire()
    q.put("high")
    q.put("new", step=2)
    assert names(q.take()) == ["high", "new"]
    assert apart(q) == ["low", "lower"]
    q.put("newer", step=2)
    assert names(q.take()) == ["low"]
    assert names(q.take(company=HOLDS)) == ["newer"]


def test_setting_apart_is_bounded_by_bytes_as_handing_out_is(q: Queue) -> None:
    head = b'{"x-deliveries":3,"x-spared":2,'
    q.db.lpush(q.keys.ready[0], *(head + msg(i, size=10_000)[1:] for i in range(6)))
    assert q.take(10, company=HOLDS, max_bytes=25_000) == []
    assert apart(q) == ["0", "1", "2"]
    assert names(q.ready) == ["3", "4", "5"]


def test_of_many_a_hundred_are_set_apart_at_a_time(q: Queue) -> None:
    head = b'{"x-deliveries":3,"x-spared":2,'
    q.db.lpush(q.keys.ready[0], *(head + msg(i)[1:] for i in range(150)))
    claimed = q.claim(200, company=HOLDS)
    assert (claimed.deliveries, claimed.more) == ([], ("q",))
    assert (len(apart(q)), len(q.ready)) == (100, 50)


def test_what_is_set_apart_has_ended_once_and_waits_from_now_on(q: Queue) -> None:
    twice(q, "a", "b")
    ended = q.stats["expired"]
    assert q.take(company=HOLDS) == []
    scores = dict(q.db.zrange(q.keys.unacked, 0, -1, withscores=True))
    for receipt, lease in q.unacked.items():
        assert scores[receipt.encode()] == 10 * BAND + lease.since + 0.5
    assert q.stats["expired"] == ended, "it counts as ended when it is handed out"
    q.take()
    assert q.stats["expired"] == ended + 1


def test_beside_what_is_set_apart_the_others_count_as_ended(q: Queue) -> None:
    for new in (("a", "b"), ("c",)):
        q.put(*new)
        q.take()
        q.expire()
    ended = q.stats["expired"]
    assert names(q.take(company=HOLDS)) == ["c"]
    assert (apart(q), q.stats["expired"]) == (["a", "b"], ended + 1)


def test_where_a_tracked_message_is_that_was_set_apart(q: Queue) -> None:
    head = b'{"x-deliveries":3,"x-spared":2,'
    q.db.lpush(q.keys.ready[0], head + tracked_msg("a")[1:])
    q.db.lpush(q.keys.ready[0], head + msg("b")[1:])
    assert q.take(company=HOLDS) == []
    (key,) = [key for key in q.keys.tracked if q.db.exists(key)]
    ((name, text),) = q.db.hgetall(key).items()
    assert name == b"a"
    assert text.split(b" ")[::2] == [b"h", apart_as(q)["a"].encode()]


@pytest.mark.parametrize("make", [msg, tracked_msg])
def test_what_waits_to_go_alone_is_cancelled_as_what_is_ready(
    q: Queue, make: Callable[..., bytes]
) -> None:
    """It was answered LOST: it was looked for in the ready lists."""
    head = b'{"x-deliveries":3,"x-spared":2,'
    for name in ("b", "a"):
        q.db.lpush(q.keys.ready[0], head + make(name, headers={"id": name})[1:])
    assert q.take(company=HOLDS) == []
    assert q.run(flows.cancel(q.keys, ["a"])) == [DONE]
    assert apart(q) == ["b"]
    assert list(q.db.hkeys(q.keys.records)) == [apart_as(q)["b"].encode()]
    assert q.stats["cancelled"] == 1
    state = q.run(calls.find(q.keys, "a")).state
    assert state == ("cancelled" if make is tracked_msg else "unknown")
    assert q.run(flows.cancel(q.keys, ["a"])) == [Verdict.LOST], "once"
    assert names(q.take()) == ["b"]


def test_what_was_spared_once_is_handed_out_beside_others(q: Queue) -> None:
    q.db.lpush(q.keys.ready[0], b'{"x-deliveries":2,"x-spared":1,' + msg("a")[1:], msg("b"))
    got = q.take(company=HOLDS)
    assert [(name_of(each), each.deliveries, each.spared) for each in got] == [
        ("a", 3, 1),
        ("b", 1, 0),
    ]


def test_handed_back_it_is_spared(q: Queue) -> None:
    twice(q, "a", "b")
    q.take(company=HOLDS)
    q.run(calls.hand_back(q.keys))
    assert names(q.ready) == ["a", "b"]
    assert all(b'"x-deliveries":2,"x-spared":2,' in raw for raw in q.ready)
    assert names(q.take()) == ["a"]


def test_a_head_that_anybody_wrote_spares_nothing(q: Queue) -> None:
    q.put(b'{"x-spared":99999999,' + msg("a")[1:])
    for _ in range(3):
        (got,) = q.take(1, max_deliveries=3)
        assert got.spared == 0
        q.expire()
    assert q.take(max_deliveries=3) == []


def test_a_dead_letter_does_not_end_the_claim_as_what_goes_alone_does(q: Queue) -> None:
    """It came behind one that was handed out and before another: the claim failed."""
    q.put("a", "b", "z", "new")
    held = {name_of(got): got.receipt for got in q.take(3)}
    spared = b'5 1 0 {"x-deliveries":5,"x-spared":2,' + msg("b")[1:]
    q.db.hset(q.keys.records, held["b"], spared)
    q.expire()
    assert names(q.take(max_deliveries=2)) == ["a", "z", "new"]
    assert [(name_of(letter.raw), letter.reason) for letter in q.dead] == [("b", "max_deliveries")]


@pytest.mark.parametrize("number", ["2", '"2"', "2.0"])
def test_its_consumer_knows_it_though_another_program_wrote_its_head(q: Queue, number: str) -> None:
    """Stock Kombu writes blanks when it gives a message back."""
    head = f'{{"x-deliveries": 3, "x-expires": {q.now() + 60_000}, "x-spared": {number}, '
    q.db.lpush(q.keys.ready[0], head.encode() + msg("a")[1:])
    q.put("b")
    (got,) = q.take()
    assert (name_of(got), got.spared, got.charged) == ("a", 2, 2)


def test_a_claim_that_has_no_further_attempt_sets_apart_under_a_name_of_its_own(q: Queue) -> None:
    """A message was lost: it was set apart under the name of one that was already."""
    call = q.claiming(company=HOLDS)
    for _ in range(BEYOND_RETRIES):
        call = call.again()
    for bodies in ("a", "b", "c"), ("d", "e"):
        head = b'{"x-deliveries":3,"x-spared":2,'
        q.db.lpush(q.keys.ready[0], *(head + msg(body)[1:] for body in bodies))
        assert q.run(call).deliveries == []
        call = call.again()
    assert apart(q) == ["a", "b", "c", "d", "e"]


def test_numbers_and_purge_know_it(q: Queue) -> None:
    twice(q, "a", "b")
    q.take(company=HOLDS)
    state = q.run(calls.inspect(q.keys))
    assert (state.unacked, state.expired) == (2, 2)
    assert len(q.run(calls.peek(q.keys, "unacked"))) == 2
    assert q.run(calls.purge(q.keys, unacked=True)).unacked == 2


def test_what_was_set_apart_goes_before_what_a_plain_claim_would_take(q: Queue) -> None:
    twice(q, "a", "b")
    q.put("new", "newer", "newest")
    q.take(1, company=HOLDS)
    q.take(1, company=HOLDS)
    assert names(q.take(1)) == ["a"]


def test_what_was_set_apart_goes_before_the_leases_of_its_step_that_ended(q: Queue) -> None:
    twice(q, "a", "b")
    q.claim(company=HOLDS)
    q.put("c")
    (held,) = q.take(company=HOLDS)
    q.pass_one_lease(held.receipt)
    assert names(q.take()) == ["a"]


def test_behind_a_dead_letter_the_last_one_goes_alone_and_nothing_is_left(q: Queue) -> None:
    for at, (name, deliveries) in enumerate({"a": 5, "b": 2}.items(), 1):
        q.write("apart", msg(name), name=name, deliveries=deliveries, spared=2, alone=True, at=at)
    claimed = q.claim(max_deliveries=3)
    assert (names(claimed.deliveries), claimed.alone) == (["b"], True)
    assert [(name_of(letter.raw), letter.reason) for letter in q.dead] == [("a", "max_deliveries")]
    assert (claimed.more, q.tokens, q.stats["expired"]) == ((), 0, 2)


def test_the_release_before_loses_nothing_of_it(q: Queue) -> None:
    """14144c1 does not know it: it leaves what waits to go alone, and counts all deliveries."""
    text = OLDER.read_text()
    sha = q.db.script_load(text)

    def older(limit: int = 10) -> list[Any]:
        call = q.claiming(limit, by="old")
        args = [*call.args[:8], *call.args[10:]]  # without company and keep
        keys = q.keys.inspect  # those it knows
        reply = q.db.execute_command("EVALSHA", sha, len(keys), *keys, *args)
        return list(reply[1:])

    twice(q, "a", "b")
    q.put("new")
    assert names(older()[4::5]) == ["a", "b", "new"], "what nobody has set apart it takes"
    q.expire()
    assert names(q.take(company=HOLDS)) == ["new"]
    assert apart(q) == ["a", "b"]
    assert older() == []
    assert sorted(q.places()) == ["a", "b", "new"]
    for body in "a", "b":
        (got,) = q.take()
        assert (name_of(got), got.deliveries, got.charged) == (body, 4, 2)
