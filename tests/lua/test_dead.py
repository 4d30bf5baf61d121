"""redrive and purge: what an operator does about what lies there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from atomq import calls, flows
from atomq.calls import Counts, Outgoing, Rejection
from atomq.client import Engine
from atomq.errors import InvalidArgument, PermissionDenied, QueueInUse, WrongType
from atomq.message import Writer
from tests.lua.rig import Queue, Rig, msg, name_of, names


def bury(q: Queue, *bodies: object, reason: str = "failed", **settings: int) -> list[str]:
    """Dead letters, by way of a claim and a reject; their ids."""
    q.put(*bodies, **settings)
    items = [Rejection(each.receipt, name_of(each), reason) for each in q.take(1000)]
    q.run(calls.reject(q.keys, items))
    return [letter.id for letter in q.dead][-len(bodies) :]


# ── what is kept ──────────────────────────────────────────────────────────────────────────────


def kept(rig: Rig, keep: str) -> Queue:
    q = rig.queue()
    q.keys.keep = keep
    return q


def old(q: Queue, *bodies: str) -> None:
    """Letters of an hour ago, which is before any other."""
    ms = q.now() - 3_600_000
    for i, body in enumerate(bodies):
        fields = {"reason": "r", "detail": "", "deliveries": 1, "step": 1, "message": msg(body)}
        q.db.xadd(q.keys.dead, fields, id=f"{ms}-{i}")


def by_reject(q: Queue) -> None:
    bury(q, "x", "y")


def by_claim(q: Queue) -> None:
    q.db.lpush(q.keys.ready[0], b"x", b"y")
    assert [letter.raw for letter in q.claim().dead_lettered] == [b"x", b"y"]


def by_hand(q: Queue) -> None:
    for name in "xy":
        call = calls.dead_letter(q.keys, msg(name), call_id=name, reason="undecodable")
        assert q.run(call)


def by_restoring(q: Queue) -> None:
    q.rig.allowed |= {b"unacked", b"unacked_index"}
    for name in "xy":
        q.db.hset("unacked", name, "no record")
        q.db.zadd("unacked_index", {name: 1})
    q.run(calls.restore_foreign(q.keys, ("unacked", "unacked_index"), visibility_s=60))


@pytest.mark.parametrize("die", [by_reject, by_claim, by_hand, by_restoring])
@pytest.mark.parametrize(
    ("keep", "left"),
    [("", 5), ("0 0", 5), ("4 0", 4), ("1 0", 1), ("0 60000", 2), ("9 60000", 2), ("1 60000", 1)],
)
def test_dead_letters_beyond_the_limits_go(rig: Rig, die: Any, keep: str, left: int) -> None:
    """To the letter, the oldest first, and counted; one that has just died stays."""
    q = kept(rig, keep)
    old(q, "a", "b", "c")
    before = [letter.id for letter in q.dead]
    die(q)
    found = [letter.id for letter in q.dead]
    assert len(found) == left
    assert found[:-2] == before[len(before) - max(0, left - 2) :]
    assert (q.stats["dead"], q.stats.get("dropped", 0)) == (2, 5 - left)


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_who_may_not_trim_is_refused_before_anything_moves(rig: Rig) -> None:
    q = kept(rig, "1 0")
    q.put("a")
    held = q.take()[0].receipt
    rig.db.execute_command("ACL SETUSER default -xtrim")
    try:
        with pytest.raises(PermissionDenied):
            q.run(calls.reject(q.keys, [Rejection(held, "i", "failed")]))
        assert (q.dead, list(q.unacked)) == ([], [held])
        q.keys.keep = ""
        assert q.run(calls.reject(q.keys, [Rejection(held, "i", "failed")]))
    finally:
        rig.db.execute_command("ACL SETUSER default +xtrim")


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_a_claim_that_may_not_trim_takes_nothing(rig: Rig) -> None:
    q = kept(rig, "1 0")
    q.db.lpush(q.keys.ready[0], b"no message", msg("a"))
    rig.db.execute_command("ACL SETUSER default -xtrim")
    try:
        with pytest.raises(PermissionDenied):
            q.claim()
    finally:
        rig.db.execute_command("ACL SETUSER default +xtrim")
    assert (q.ready, q.unacked, q.dead) == ([b"no message", msg("a")], {}, [])


def test_a_claim_is_made_beside_delayed_messages_where_dead_letters_are_limited(rig: Rig) -> None:
    q = kept(rig, "1 0")
    q.put("later", delay_ms=60_000)
    q.db.lpush(q.keys.ready[0], b"no message", msg("a"))
    assert names(q.take()) == ["a"]
    assert [letter.raw for letter in q.dead] == [b"no message"]


def test_a_key_of_another_type_is_named_where_dead_letters_are_limited(rig: Rig) -> None:
    q = kept(rig, "1 0")
    q.put("a")
    q.db.set(q.keys.unacked, "no")
    with pytest.raises(WrongType, match=f"{re.escape(q.keys.unacked)} is not of the type"):
        q.claim()
    assert q.ready == [msg("a")]


def test_without_limits_no_command_more_is_run(rig: Rig) -> None:
    q = rig.queue()
    by_reject(q)  # the probe runs every command there is
    rig.db.config_resetstat()
    by_reject(q)
    assert "cmdstat_xtrim" not in rig.db.info("commandstats")


def test_the_options_are_those_of_every_queue_of_an_engine() -> None:
    def keep(**options: Any) -> str:
        return Engine("redis://localhost", **options).keys("q").keep

    assert (keep(), keep(dead_max=5), keep(dead_ttl=60)) == ("", "5 0", "0 60000")
    assert keep(dead_max=5, dead_ttl=0.5) == "5 500"


# ── redrive ───────────────────────────────────────────────────────────────────────────────────


def test_all_oldest_first_each_to_its_step(q: Queue) -> None:
    bury(q, "a", "b")
    ids = bury(q, "low", step=4)
    done = q.run(calls.redrive(q.keys))
    assert (done.count, done.seen, done.last) == (3, 3, ids[0])
    assert names(q.ready) == ["a", "b", "low"]
    assert name_of(q.db.lindex(q.keys.ready[3], 0)) == "low"
    assert q.dead == []
    assert q.stats["redriven"] == 3
    assert q.tokens == 1


def test_named_ones(q: Queue) -> None:
    ids = bury(q, "a", "b", "c")
    done = q.run(calls.redrive(q.keys, [ids[2], ids[0], ids[2], "1-1"]))
    assert done.count == 2
    assert names(q.ready) == ["c", "a"]
    assert names([letter.raw for letter in q.dead]) == ["b"]


def test_limit_after_until_and_reason(q: Queue) -> None:
    ids = bury(q, *"abcdef")
    assert q.run(calls.redrive(q.keys, limit=1)).count == 1
    q.run(calls.redrive(q.keys, after=ids[1], until=ids[3]))
    assert names(q.ready) == ["a", "c", "d"]
    q.db.delete("q")
    bury(q, "other", reason="other")
    q.run(calls.redrive(q.keys, reason="other"))
    assert names(q.ready) == ["other"]


def test_deliveries_and_time_to_live_are_forgotten(q: Queue) -> None:
    """Else it would die again at once, of the same."""
    q.put("a", ttl_ms=60_000)
    (got,) = q.take()
    q.run(calls.release(q.keys, [(got.receipt, "a")]))
    q.run(calls.reject(q.keys, [Rejection(q.take()[0].receipt, "a", "failed")]))
    q.run(calls.redrive(q.keys))
    assert q.ready == [msg("a")]


def test_what_cannot_be_decoded_stays(q: Queue) -> None:
    q.db.lpush("q", b"junk")
    q.take()
    bury(q, "a")
    done = q.run(calls.redrive(q.keys))
    assert (done.count, done.seen) == (1, 2)
    assert [letter.raw for letter in q.dead] == [b"junk"]


def test_what_somebody_else_wrote_there_is_in_nobodys_way(q: Queue) -> None:
    q.db.xadd(q.keys.dead, {"hello": "world"})
    q.put("a")
    q.run(calls.reject(q.keys, [Rejection(q.take()[0].receipt, "a", "failed")]))
    assert q.run(calls.redrive(q.keys)).count == 1
    assert [each.raw for each in q.run(calls.peek(q.keys, "dead"))] == [b""]
    assert names(q.ready) == ["a"]


def test_bytes_stop_a_redrive(q: Queue) -> None:
    bury(q, *[msg(i, size=1000) for i in range(4)])
    done = q.run(calls.redrive(q.keys, max_bytes=2000))
    assert (done.count, done.seen) == (2, 2)


def test_all_of_many(q: Queue) -> None:
    bury(q, *range(1000))
    told: list[int] = []
    assert q.rig.engine.run(flows.redrive_all(q.keys, report=told.append)) == 1000
    assert names(q.ready) == [str(i) for i in range(1000)]
    assert told[-1] == 1000


BAD_IDS = (
    {"ids": ["nonsense"]},
    {"ids": ["1-x"]},
    {"ids": [""]},
    {"ids": ["99999999999999999999-1"]},
    {"after": "x"},
    {"until": "x"},
)


@pytest.mark.parametrize("given", BAD_IDS, ids=str)
def test_what_is_no_id_is_refused_before_anything_moved(q: Queue, given: dict[str, Any]) -> None:
    good = bury(q, "a", "b")
    if "ids" in given:
        given = {"ids": [good[0], *given["ids"]]}
    stored = q.rig.snapshot()
    with pytest.raises(InvalidArgument, match=r"no id|not the id"):
        q.run(calls.redrive(q.keys, **given))
    assert q.rig.snapshot() == stored


def test_a_paused_queue_gets_its_letters_and_no_token(q: Queue) -> None:
    bury(q, "a")
    q.run(calls.pause(q.keys))
    q.run(calls.redrive(q.keys))
    assert (len(q.ready), q.tokens) == (1, 0)


def test_fewer_steps_than_it_died_with(rig: Rig, q: Queue) -> None:
    bury(q, "a", step=4)
    few = rig.queue("q", steps=(0,))
    few.run(calls.redrive(few.keys))
    assert q.db.llen("q") == 1


# ── what was popped and cannot be read ────────────────────────────────────────────────────────


def test_a_letter_of_what_was_popped(q: Queue) -> None:
    call = calls.dead_letter(
        q.keys, b"\xff", call_id="c1", reason="undecodable", detail="no JSON", step=3
    )
    assert q.run(call) is True
    assert q.run(call.again()) is False, "found by its call id"
    other = calls.dead_letter(q.keys, b"\xff", call_id="c2", reason="undecodable")
    assert q.run(other.again()) is True, "the call before was never carried out"
    first, second = q.dead
    assert (first.raw, first.reason, first.detail) == (b"\xff", "undecodable", "no JSON")
    assert (first.deliveries, first.step, second.step) == (1, 3, 1)
    assert q.stats["dead"] == 2


# ── purge ─────────────────────────────────────────────────────────────────────────────────────


def filled(q: Queue) -> None:
    bury(q, "dead", "dead too")
    q.put("unacked")
    q.take()
    q.put("ready", "ready too")
    q.put("low", step=3)
    q.put("delayed", delay_ms=60_000)


PARTS = {"ready": 3, "delayed": 1, "unacked": 1, "dead": 2}


@pytest.mark.parametrize("part", PARTS)
def test_one_part_and_no_other(q: Queue, part: str) -> None:
    filled(q)
    before = q.places()
    gone = q.run(calls.purge(q.keys, **{part: True}))
    assert gone == Counts(**{part: PARTS[part]})
    assert q.places() == {name: place for name, place in before.items() if place != part}


def test_a_purge_leaves_nobody_to_wake_and_no_time_to_mind(q: Queue) -> None:
    q.put("later", delay_ms=60_000)
    q.claim()
    q.put("ready")
    assert (q.tokens, "timer_at" in q.meta) == (1, True)
    q.run(calls.purge(q.keys, ready=True))
    assert q.tokens == 0
    q.run(calls.purge(q.keys, delayed=True))
    assert not {"timer_at", "timer_by"} & set(q.meta)


def test_everything_leaves_no_key(q: Queue) -> None:
    filled(q)
    q.put("x", dedup=True)
    call = calls.purge(q.keys, ready=True, delayed=True, unacked=True, dead=True, settings=True)
    assert q.run(call) == Counts(4, 1, 1, 2)
    assert q.db.keys() == []


def test_a_queue_that_is_used_is_purged_whole_or_not_at_all(q: Queue) -> None:
    filled(q)
    call = calls.purge(q.keys, ready=True, unacked=True, settings=True, if_unused=True)
    stored = q.rig.snapshot()
    with pytest.raises(QueueInUse, match=r"unacked messages, 1: .*\(purge of 'q'\)"):
        q.run(call)
    assert q.rig.snapshot() == stored
    q.run(calls.purge(q.keys, unacked=True))
    assert q.run(call) == Counts(ready=3)


def test_a_queue_that_is_not_idle_is_not_purged(q: Queue) -> None:
    call = calls.purge(
        q.keys, ready=True, delayed=True, unacked=True, dead=True, settings=True, if_idle=True
    )

    def is_spared() -> None:
        stored = q.rig.snapshot()
        with pytest.raises(QueueInUse):
            q.run(call)
        assert q.rig.snapshot() == stored

    q.put("a", step=2)
    is_spared()
    (held,) = q.take()
    is_spared()
    q.run(calls.reject(q.keys, [calls.Rejection(held.receipt, "", "rejected")]))
    is_spared()  # a dead letter
    q.run(calls.purge(q.keys, dead=True))
    q.run(calls.attend(q.keys, "w", alive_ms=60_000))
    is_spared()
    q.run(calls.attend(q.keys, "w"))
    q.db.hset(q.keys.meta, "partitions", "2")
    is_spared()
    q.db.hdel(q.keys.meta, "partitions")
    q.run(call)
    assert q.db.keys() == []


def test_a_queue_that_holds_messages_is_purged_whole_or_not_at_all(q: Queue) -> None:
    call = calls.purge(q.keys, ready=True, delayed=True, settings=True, if_empty=True)
    for settings in ({}, {"step": 4}, {"delay_ms": 60_000}):
        q.put("x", **settings)
        stored = q.rig.snapshot()
        with pytest.raises(QueueInUse, match=r"the queue has messages, 1"):
            q.run(call)
        assert q.rig.snapshot() == stored
        q.run(calls.purge(q.keys, ready=True, delayed=True))
    assert q.run(call) == Counts()
    assert q.db.keys() == []


def test_single_dead_letters(q: Queue) -> None:
    ids = bury(q, "a", "b", "c")
    gone = q.run(calls.purge(q.keys, dead_ids=[ids[1], "nonsense", "1-1"]))
    assert gone == Counts(dead=1)
    assert names([letter.raw for letter in q.dead]) == ["a", "c"]


def test_nothing_named_is_nothing_purged(q: Queue) -> None:
    filled(q)
    stored = q.rig.snapshot()
    assert q.run(calls.purge(q.keys)) == Counts()
    assert q.rig.snapshot() == stored


def test_a_purged_receipt_is_lost(q: Queue) -> None:
    q.put("a")
    (got,) = q.take()
    q.run(calls.purge(q.keys, unacked=True))
    assert q.run(calls.ack(q.keys, [got.receipt])) == [calls.Verdict.LOST]


def test_what_is_redriven_has_no_result_any_more(q: Queue) -> None:
    """Else whoever waits for it hears of the old failure."""
    writer = Writer("q")
    for name in ("a", "b"):
        message = writer.write({"n": 1}, name)
        q.run(calls.publish(q.keys, [Outgoing(message, name)]))
        (got,) = q.take()
        q.run(calls.reject(q.keys, [Rejection(got.receipt, name, "failed", "", '"old"')]))
    assert q.run(flows.redrive(q.keys, [q.dead[0].id])) == 1
    assert (q.result("a"), q.result("b")) == (None, b'"old"')
    assert q.run(flows.redrive_all(q.keys)) == 1
    assert q.result("b") is None
    assert len(q.ready) == 2


def test_redrive_looks_and_moves_nothing(q: Queue) -> None:
    bury(q, "a", "b")
    stored = q.rig.snapshot()
    looked = q.run(calls.redrive(q.keys, look=True))
    assert (looked.count, looked.seen, len(looked.found)) == (0, 2, 2)
    assert [name for name, _ in looked.found] == [letter.id for letter in q.dead]
    assert q.rig.snapshot() == stored


def test_many_large_dead_letters_are_redriven_by_name(q: Queue) -> None:
    """A call stops behind 1 MiB; what it did not reach is asked for again."""
    ids = [bury(q, msg(i, size=300_000))[0] for i in range(9)]
    assert q.run(flows.redrive(q.keys, ids)) == 9
    assert q.dead == []


def test_delete_finds_the_lists_of_a_fleet_with_other_steps(rig: Rig) -> None:
    """Their messages stayed in lists that the next queue of this name would have served."""
    q, other = rig.queue("q", steps=(0, 5)), rig.queue("q", steps=tuple(range(10)))
    for step in range(1, 11):
        other.put(f"s{step}", step=step)
    call = calls.purge(q.keys, ready=True, delayed=True, unacked=True, dead=True, settings=True)
    assert q.run(call).ready == 10
    assert rig.db.keys() == []
