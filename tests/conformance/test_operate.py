"""What an operator does: look, pause, cancel, redrive, purge."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from atomq import (
    BYTES,
    Counts,
    InvalidArgument,
    InvalidMessage,
    Item,
    LeaseLost,
    QueueInUse,
    Verdict,
)
from tests.servers import wait_until


def test_state_counts_and_purge_throws_away(q: Any) -> None:
    q.put_many([*range(5), Item("later", delay=60), Item("low", priority=9)])
    q.claim().reject("bad")
    held = q.claim()
    state = q.state()
    assert (state.name, state.ready, state.delayed, state.unacked, state.dead) == ("q", 4, 1, 1, 1)
    assert state.ready_by_priority == {0: 3, 3: 0, 6: 0, 9: 1}
    assert 59_000 < state.next_due_ms - state.now_ms <= 60_000
    assert (state.paused, state.inconsistent, state.expired, state.due) == (False, 0, 0, 0)
    assert state.stats["published"] == 7
    assert b'"body"' in state.oldest
    assert q.purge() == Counts(ready=4, delayed=1)
    assert q.purge("dead", "unacked") == Counts(unacked=1, dead=1)
    assert q.state().unacked == 0
    with pytest.raises(InvalidArgument, match="no part 'everything'"):
        q.purge("everything")
    del held


def test_peek_looks_without_touching(q: Any) -> None:
    q.put_many([1, 2, 3, Item("low", priority=9), Item("later", delay=60, id="L")])
    message = q.claim()
    for _ in range(2):
        assert [b'"body":"2"' in p.raw for p in q.peek("ready", 2)] == [True, False]
        assert [p.step for p in q.peek("ready", offset=2)] == [4]
        [delayed] = q.peek("delayed")
        assert (delayed.name, delayed.deliveries) == ("L", 0)
        [held] = q.peek("unacked")
        assert (held.name, held.deliveries) == (message.receipt, 1)
        assert message.receipt.startswith(held.holder)
    message.reject("one")
    q.claim().reject("two")
    first, second = q.peek("dead")
    assert (first.reason, second.reason) == ("one", "two")
    assert [p.reason for p in q.peek("dead", after=first.name)] == ["two"]


def test_what_is_looked_at_tells_its_id_and_its_body(make: Any) -> None:
    q, blobs = make(), make(serializer=BYTES)
    q.put({"n": 1}, id="one")
    blobs.put(b"\xff", delay=60)
    assert [(p.id, p.body) for p in q.peek()] == [("one", {"n": 1})]
    assert [p.body for p in blobs.peek("delayed")] == [b"\xff"]
    [other] = q.peek("delayed")
    with pytest.raises(InvalidMessage, match="octet-stream"):
        _ = other.body
    assert other.id == other.name
    q.claim()
    assert q.peek("unacked")[0].id == "one"
    with pytest.raises(InvalidArgument, match="no part 'all'"):
        q.peek("all")


def test_delete_leaves_nothing_of_a_queue(place: Any, q: Any) -> None:
    q.put_many([1, 2, Item("later", delay=60), Item("once", id="once", priority=9)])
    q.claim().reject("bad")
    q.pause()
    q.resume()
    assert q.delete() == Counts(ready=2, delayed=1, unacked=0, dead=1)
    assert q.delete() == Counts()
    if place.server is not None:
        keys = [key for key in place.db.keys("*") if not key.startswith(b"_atomq.register{")]
        passing = (b".result.", b".producer.")
        assert [key for key in keys if not any(kind in key for kind in passing)] == []
        assert all(place.db.pttl(key) > 0 for key in keys)
    assert q.put("again", id="once").new, "its ids are forgotten too"


def test_closing_a_queue_closes_the_engine_that_it_made(place: Any, make: Any) -> None:
    if place.server is None:
        pytest.skip("its connections cannot be counted")

    db = place.db

    def connections() -> int:
        return len(db.client_list())

    before = connections()
    with make.of_url() as mine:
        mine.put("x")
        assert connections() > before
    wait_until("its connections to go", lambda: connections() <= before)
    shared = make()
    with shared:
        shared.put("y")
    assert connections() > before, "an engine that was given stays open"
    shared.put("z")


def test_a_queue_in_use_is_not_deleted_by_mistake(q: Any) -> None:
    q.put_many("ab")
    message = q.claim()
    with pytest.raises(QueueInUse, match=r"unacked messages, 1: .* 'q'"):
        q.delete()
    assert (q.state().ready, q.state().unacked) == (1, 1)
    assert q.delete(force=True) == Counts(ready=1, unacked=1)
    with pytest.raises(LeaseLost):
        message.ack()


def test_a_queue_is_not_deleted_under_a_consumer(make: Any) -> None:
    """Catches a look at the queue first: what is claimed behind it would go too."""
    q, other = make(), make(prefetch=1)
    acked, deleted = 0, 0

    def work() -> int:
        done = 0
        for n in range(100):
            q.put(n)
            message = q.claim()
            if message is not None:
                message.ack()  # raises `LeaseLost`
                done += 1
        return done

    with ThreadPoolExecutor(1) as pool:
        consumer = pool.submit(work)
        while not consumer.done():
            with suppress(QueueInUse):
                deleted += other.delete().ready
        acked = consumer.result()
    deleted += other.delete().ready
    assert acked + deleted == 100


def test_cancel_takes_out_what_is_delayed_or_ready(q: Any) -> None:
    q.put_many([Item(n, delay=60, id=f"m{n}") for n in range(3)])
    q.put("ready", id="r")
    done, lost = Verdict.DONE, Verdict.LOST
    assert q.cancel("m0", "m2", "unknown", "r") == [done, done, lost, done]
    assert [p.name for p in q.peek("delayed")] == ["m1"]
    assert q.claim() is None
    assert q.cancel() == []


def test_redrive_brings_dead_letters_back(q: Any) -> None:
    q.put_many(range(6))
    for message in q.claim_many(6):
        message.reject("odd" if message.body % 2 else "even")
    assert q.redrive([q.peek("dead")[0].name]) == 1
    assert q.claim().body == 0
    assert q.redrive(reason="odd") == 3
    assert [m.body for m in q.claim_many(10)] == [1, 3, 5]
    assert q.redrive() == 2
    assert q.redrive() == 0
    messages = q.claim_many(10)
    assert [(m.body, m.deliveries) for m in messages] == [(2, 1), (4, 1)], "it begins anew"
    assert q.redrive(["0-1"]) == 0


def test_a_paused_queue_takes_messages_and_hands_out_none(q: Any) -> None:
    q.put("before")
    q.pause()
    q.put("during")
    q.put("delayed", delay=0.01)
    assert q.state().paused
    assert q.claim(timeout=0.1) is None
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(q.claim(timeout=10)))
    waiting.start()
    q.resume()
    waiting.join()
    assert got[0] is not None
    wait_until("the delayed one to be due", lambda: q.state().due or q.state().delayed == 0)
    assert len(q.claim_many(10)) == 2
    assert not q.state().paused


def test_what_is_held_when_a_queue_is_paused_can_be_settled(q: Any) -> None:
    q.put_many("ab")
    one, two = q.claim_many(2)
    q.pause()
    assert one.ack() is Verdict.DONE
    two.release()
    assert (q.state().ready, q.state().unacked) == (1, 0)
