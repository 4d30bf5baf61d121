"""overview: many queues in numbers, as `inspect` has them one by one, for a few commands each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from atomq import calls
from atomq.calls import QueueOverview, Rejection
from atomq.errors import InvalidArgument, WrongType
from atomq.keys import QueueKeys
from atomq.message import Writer
from tests.lua.rig import BAND, Queue, Rig, msg


def one(q: Queue, **more: Any) -> QueueOverview:
    (found,) = q.run(calls.overview([q.keys], **more))
    return found


def nothing(q: Queue) -> None:
    pass


def ready(q: Queue) -> None:
    q.put("a", "b")


def low(q: Queue) -> None:
    q.put("a", step=3)


def several_steps(q: Queue) -> None:
    for step in (1, 2, 4):
        q.put(f"a{step}", step=step)


def held(q: Queue) -> None:
    q.put("a", "b")
    q.take(1)


def held_low(q: Queue) -> None:
    q.put("a", step=2)
    q.take(1)


def ended(q: Queue) -> None:
    q.put("a", "b", "c")
    q.pass_one_lease(q.take(1)[0].receipt)


def ended_low(q: Queue) -> None:
    q.put("a", step=3)
    q.db.zincrby(q.keys.unacked, -100_000, q.take()[0].receipt)


def apart(q: Queue) -> None:
    q.put("a")
    q.db.zadd(q.keys.unacked, {q.take()[0].receipt: 10 * BAND + q.now() - 60_000})


def delayed(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    q.put("b", delay_ms=30_000)


def delayed_low(q: Queue) -> None:
    q.put("a", delay_ms=60_000)
    q.put("b", delay_ms=30_000, step=2)


def fell_due(q: Queue) -> None:
    delayed_low(q)
    q.pass_time(45_000, of="delayed")


def died(q: Queue) -> None:
    q.put("a", "b")
    q.run(calls.reject(q.keys, [Rejection(each.receipt, "i", "failed") for each in q.take()]))


def paused(q: Queue) -> None:
    q.run(calls.pause(q.keys))


def paused_with_messages(q: Queue) -> None:
    several_steps(q)
    q.run(calls.pause(q.keys))


STATES = [nothing, ready, low, several_steps, held, held_low, ended, ended_low, apart, delayed]
STATES += [delayed_low, fell_due, died, paused, paused_with_messages]


@pytest.mark.parametrize("fill", STATES)
def test_it_says_what_inspect_says(q: Queue, fill: Callable[[Queue], None]) -> None:
    fill(q)
    found, known = one(q), q.run(calls.inspect(q.keys))
    for name in ("name", "ready", "ready_by_priority", "unacked", "expired", "delayed", "due"):
        assert getattr(found, name) == getattr(known, name), name
    for name in ("dead", "next_due_ms", "paused", "stats"):
        assert getattr(found, name) == getattr(known, name), name
    assert found.backlog == known.ready + known.due + known.expired
    assert abs(found.now_ms - q.now()) < 1000


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
def test_many_at_once_each_its_own(rig: Rig) -> None:
    queues = [rig.queue(f"q {fill.__name__}") for fill in STATES]
    for q, fill in zip(queues, STATES, strict=True):
        fill(q)
    together = rig.engine.run(calls.overview([q.keys for q in queues]))
    assert [each.name for each in together] == [q.name for q in queues]
    for q, found in zip(queues, together, strict=True):
        alone = one(q)
        assert found == QueueOverview(**{**vars(alone), "now_ms": found.now_ms})


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
def test_a_key_of_another_type_costs_no_other_queue_its_numbers(rig: Rig) -> None:
    good, bad, other = (rig.queue(name) for name in ("good", "bad", "other"))
    ready(good)
    ready(other)
    for key in bad.keys.overview:
        rig.db.delete(*bad.keys.overview)
        rig.db.set(key, "not of our making")
        first, failed, last = rig.engine.run(calls.overview([q.keys for q in (good, bad, other)]))
        assert (first.ready, last.ready) == (2, 2)
        assert isinstance(failed, WrongType)
        assert key in str(failed)
    rig.db.delete(*bad.keys.overview)
    rig.db.hset(bad.keys.stats, "published", "many")
    _, failed, _ = rig.engine.run(calls.overview([q.keys for q in (good, bad, other)]))
    assert isinstance(failed, WrongType)
    rig.db.delete(bad.keys.stats)


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
def test_the_answer_for_an_idle_queue_is_its_counters(rig: Rig) -> None:
    """Most queues are idle in a fleet: the server makes one text for each, of what it has read."""
    idle, stopped = rig.queue("idle"), rig.queue("stopped")
    for q in (idle, stopped):
        q.db.hset(q.keys.stats, "published", 3)
    paused(stopped)
    call = calls.overview([idle.keys, stopped.keys])
    _, *texts = rig.db.execute_command(
        "EVAL", call.script.text, len(call.keys), *call.keys, *call.args
    )
    assert texts == [b"published\n3", b"1\npublished\n3"]


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
def test_idle_queues_are_found_together_wherever_the_others_stand(rig: Rig) -> None:
    """One command looks at several: a busy queue is not taken for idle, wherever it stands."""
    queues = [rig.queue(f"q{i:02}") for i in range(24)]
    fills: list[Callable[[Queue], None]] = [ready, low, held, delayed, died]
    for i, at in enumerate((0, 1, 4, 11, 17, 22, 23)):
        fills[i % len(fills)](queues[at])
        found = rig.engine.run(calls.overview([q.keys for q in queues]))
        backwards = rig.engine.run(calls.overview([q.keys for q in reversed(queues)]))
        for q, one_of_many, other in zip(queues, found, reversed(backwards), strict=True):
            alone = vars(one(q)) | {"now_ms": 0}
            assert vars(one_of_many) | {"now_ms": 0} == alone
            assert vars(other) | {"now_ms": 0} == alone


# ── how old ───────────────────────────────────────────────────────────────────────────────────


def test_the_age_is_that_of_the_next_message(q: Queue) -> None:
    for at, step in ((1_700_000_000, 2), (1_700_000_100, 2), (1_600_000_000, 3)):
        q.put(msg("x", properties={"timestamp": at, "delivery_tag": "t"}), step=step)
    assert one(q).put_s == 1_700_000_000
    q.put(Writer("q").write({"a": 1}, "i", headers={"timestamp": 5}).encode())
    found = one(q)
    assert found.oldest_seconds is not None
    assert 0 <= found.oldest_seconds < 5


@pytest.mark.parametrize(
    "raw",
    [
        msg("x"),
        b'{"body":"\\"timestamp\\":5"}',
        b'{"properties":{"their_timestamp":5}}',
        b'timestamp":5',
        b'{"properties":{"timestamp":null}}',
        b"not JSON at all",
        b'{"properties":{"timestamp":',
    ],
)
def test_what_does_not_say_has_no_age(q: Queue, raw: bytes) -> None:
    q.db.lpush(q.keys.ready[0], raw)
    assert (one(q).put_s, one(q).oldest_seconds) == (None, None)


@pytest.mark.parametrize("layout", ["stock"], indirect=True)
def test_of_large_messages_it_reads_few(rig: Rig) -> None:
    """Catches a scrape that copies 10 MB for every queue that has such a message."""
    queues = [rig.queue(f"large{i}") for i in range(4)]
    for q in queues:
        q.put(msg("x" * 3000, properties={"timestamp": 1_700_000_000}))
    found = rig.engine.run(calls.overview([q.keys for q in queues], max_bytes=4000))
    assert [each.put_s for each in found] == [1_700_000_000, 1_700_000_000, None, None]


# ── what is counted ───────────────────────────────────────────────────────────────────────────


def test_the_dead_are_counted_by_reason(q: Queue) -> None:
    q.put("a", "b", "c")
    why = ("failed", "failed", "two words")
    items = [Rejection(m.receipt, "i", r) for m, r in zip(q.take(), why, strict=True)]
    q.run(calls.reject(q.keys, items))
    q.run(calls.dead_letter(q.keys, msg("u"), call_id="u", reason="undecodable"))
    q.db.lpush(q.keys.ready[0], b"undecodable")
    assert q.take() == []
    q.put("often")
    q.pass_one_lease(q.take()[0].receipt)
    q.claim(max_deliveries=1)
    found = one(q)
    assert found.dead_by_reason == {
        "failed": 2,
        "two words": 1,
        "undecodable": 2,
        "max_deliveries": 1,
    }
    assert found.stats["dead"] == 6 == found.dead
    assert not [name for name in q.run(calls.inspect(q.keys)).stats if ":" in name]


def test_reasons_without_end_are_counted_together(q: Queue) -> None:
    """Catches a queue whose counters grow with a reason for each letter, as with an id in it."""
    q.put(*range(120))
    items = [Rejection(each.receipt, "i", f"no user {i}") for i, each in enumerate(q.take(120))]
    q.run(calls.reject(q.keys, items[:60]))
    q.run(calls.reject(q.keys, items[60:]))
    found = one(q)
    assert len(found.dead_by_reason) <= 50
    assert sum(found.dead_by_reason.values()) == 120 == found.stats["dead"]
    assert found.dead_by_reason["other"] > 60


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


def commands(rig: Rig, queues: list[QueueKeys]) -> int:
    """Commands that the script runs inside, but for TIME."""
    call = calls.overview(queues, whole={queue.name for queue in queues})
    rig.engine.run(call)
    rig.db.config_resetstat()
    rig.engine.run(call)
    stats: dict[str, Any] = rig.db.info("commandstats")
    names = {name for name in stats if "config" not in name and "info" not in name}
    return sum(stats[name]["calls"] for name in names) - 2


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
@pytest.mark.parametrize("layout", ["stock"], indirect=True)
@pytest.mark.parametrize(
    ("fill", "most"),
    [(nothing, 3), (paused, 3), (ready, 5), (died, 7), (held, 9), (delayed, 9), (low, 10)],
)
def test_what_a_queue_costs(rig: Rig, fill: Callable[[Queue], None], most: int) -> None:
    q = rig.queue()
    fill(q)
    assert commands(rig, [q.keys]) <= most


def test_no_more_than_a_thousand_and_as_many_keys_as_there_should_be(rig: Rig) -> None:
    with pytest.raises(InvalidArgument):
        calls.overview([])
    with pytest.raises(InvalidArgument):
        calls.overview([rig.queue().keys] * 1001)
    call = calls.overview([rig.queue().keys])
    call.keys = call.keys[:-1]
    with pytest.raises(InvalidArgument, match="KEYS"):
        rig.engine.run(call)
