"""What the Kombu transport does to lists that are popped without a lease, and to its watch."""

from __future__ import annotations

from atomq import calls
from tests.lua.rig import Queue, msg, names


def test_what_is_put_back_is_popped_next(q: Queue) -> None:
    q.put("a", "b", step=2)
    raw = q.db.rpop(q.keys.ready[1])
    assert q.run(calls.put_back(q.keys, raw, step=2)) is True
    assert names(q.db.lrange(q.keys.ready[1], 0, -1)[::-1]) == ["a", "b"]


def test_what_is_put_back_twice_is_there_once(q: Queue) -> None:
    call = calls.put_back(q.keys, msg("a"))
    q.run(call)
    assert q.run(call.again()) is False
    assert names(q.ready) == ["a"]


def test_a_reply_expires_and_leaves_no_keys_of_ours(q: Queue) -> None:
    q.run(calls.reply(q.keys, b"one", ttl_ms=60_000))
    q.run(calls.reply(q.keys, b"two", ttl_ms=60_000))
    assert q.db.lrange(q.keys.ready[0], 0, -1) == [b"two", b"one"]
    assert 0 < q.db.pttl(q.keys.ready[0]) <= 60_000
    assert q.db.keys() == [q.keys.ready[0].encode()]


def test_a_reply_that_is_sent_again_comes_once(q: Queue) -> None:
    call = calls.reply(q.keys, b"one", ttl_ms=60_000)
    q.run(call)
    assert q.run(call.again()) is False
    assert q.db.lrange(q.keys.ready[0], 0, -1) == [b"one"]


def test_a_watcher_that_resigns_wakes_a_consumer(q: Queue) -> None:
    q.db.set(q.keys.watch, "me", px=3000)
    q.run(calls.resign(q.keys, ttl_ms=3000))
    assert q.db.get(q.keys.watch) is None
    assert q.db.lrange(q.keys.wake, 0, -1) == [b"1"]
    assert 0 < q.db.pttl(q.keys.wake) <= 3000
