"""hand_back: everything of ours into the lists that stock workers read, for a rollback."""

from __future__ import annotations

import json

import pytest

from atomq import calls, flows
from atomq.calls import HandedBack, Verdict
from tests.lua.rig import Queue, Rig, msg, name_of, names


def test_everything_goes_back_oldest_first_to_go_out(q: Queue) -> None:
    for name in ("held 1", "held 2", "held 3"):
        q.put(name)
        q.take(1)
        q.pass_time(10)
    q.put("ready")
    q.put("due 2", delay_ms=2000)
    q.put("due 1", delay_ms=1000)

    assert q.run(calls.hand_back(q.keys)) == HandedBack(2, 3, 0)
    assert names(q.ready) == ["held 1", "held 2", "held 3", "ready", "due 1", "due 2"]
    assert (q.unacked, q.delayed) == ({}, {})
    assert q.stats["handed_back"] == 5


def test_leased_counts_as_delivered_and_delayed_does_not(q: Queue) -> None:
    q.put("held")
    (got,) = q.take()
    q.put("delayed", delay_ms=1000)
    q.run(calls.hand_back(q.keys))
    assert [json.loads(raw).get("x-deliveries") for raw in q.ready] == [1, None]
    assert q.ready[1] == msg("delayed")
    assert q.run(calls.ack(q.keys, [got.receipt])) == [Verdict.LOST]


def test_each_to_its_step(rig: Rig, q: Queue) -> None:
    q.put("a", step=3, delay_ms=1000)
    q.put("b", step=4)
    q.take()
    q.run(calls.hand_back(q.keys))
    assert [name_of(q.db.lindex(q.keys.ready[step], 0)) for step in (2, 3)] == ["a", "b"]
    few = rig.queue("q", steps=(0,))
    few.put("c")
    q.put("d", step=4)
    q.take()
    few.run(calls.hand_back(few.keys))
    assert "d" in names(q.db.lrange("q", 0, -1))


@pytest.mark.parametrize("part", ["unacked", "delayed"])
def test_one_part(q: Queue, part: str) -> None:
    q.put("unacked")
    q.take()
    q.put("delayed", delay_ms=1000)
    q.run(calls.hand_back(q.keys, unacked=part == "unacked", delayed=part == "delayed"))
    other = {"unacked": "delayed", "delayed": "unacked"}[part]
    assert q.places() == {part: "ready", other: other}


def test_bounded_calls_keep_the_order(q: Queue) -> None:
    q.put(*range(20))
    q.take(20)
    q.put(*range(20, 40), delay_ms=1000)
    order = [name_of(lease.raw) for lease in q.unacked.values()]
    order += [name_of(lease.raw) for lease in q.delayed.values()]
    first = q.run(calls.hand_back(q.keys, limit=7))
    assert first == HandedBack(0, 7, 33)
    done = q.rig.engine.run(flows.hand_back_all(q.keys))
    assert done.left == 0
    assert names(q.ready) == order


def test_all_of_many(q: Queue) -> None:
    """More than one call may move."""
    q.put(*range(600), delay_ms=60_000)
    told: list[int] = []
    assert q.rig.engine.run(flows.hand_back_all(q.keys, report=told.append)) == HandedBack(
        600, 0, 0
    )
    assert (len(q.ready), told[-1]) == (600, 600)


def test_bytes_stop_a_call(q: Queue) -> None:
    q.put(*[msg(i, size=1000) for i in range(5)])
    q.take()
    assert q.run(calls.hand_back(q.keys, max_bytes=2000)) == HandedBack(0, 2, 3)
    assert len(q.places()) == 5


def test_a_deadline_without_a_record_is_dropped(q: Queue) -> None:
    q.db.zadd(q.keys.unacked, {"ghost": 1})
    assert q.run(calls.hand_back(q.keys)) == HandedBack(0, 0, 0)
    assert q.ready == []


def test_a_corrupt_record_keeps_its_bytes(q: Queue) -> None:
    q.put("a")
    (got,) = q.take()
    q.db.hset(q.keys.records, got.receipt, b"what is this")
    q.run(calls.hand_back(q.keys))
    assert q.ready == [b"what is this"]
