"""restore_foreign: what stock workers left when they died.

The records are written by Kombu's own QoS code, not by hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Foreign
from tests.lua.rig import Queue, Rig, msg, name_of, names

kombu = pytest.importorskip("kombu")

STOCK = ("unacked", "unacked_index")


@pytest.fixture
def stock(rig: Rig) -> Iterator[Any]:
    """Kombu's Redis transport on the same server."""
    rig.allowed |= {b"unacked", b"unacked_index", b"unacked_mutex", b"_kombu.binding.q"}
    connection = kombu.Connection(rig.server.tcp_url)
    channel = connection.channel()
    yield channel
    channel.qos._delivered.clear()
    connection.close()


def left_behind(stock: Any, *bodies: str, priority: int = 0, age: float = 100) -> list[str]:
    """Published and received by stock, never acked, `age` seconds ago; their tags."""
    queue = kombu.Queue("q", channel=stock)
    queue.declare()
    producer = kombu.Producer(stock)
    tags = []
    for body in bodies:
        producer.publish({"x": body}, routing_key="q", priority=priority)
        message = queue.get()
        tags.append(message.delivery_tag)
        stock.client.zadd("unacked_index", {message.delivery_tag: time.time() - age})
    return tags


def restore(q: Queue, *targets: tuple[str, int], **more: Any) -> tuple[int, list[Foreign]]:
    call = calls.restore_foreign(
        q.keys,
        STOCK,
        visibility_s=60,
        targets=[(tag, q.keys, priority) for tag, priority in targets],
        **more,
    )
    return q.run(call)  # type: ignore[no-any-return]


def test_what_is_old_is_answered_and_stays_until_it_is_named(q: Queue, stock: Any) -> None:
    tags = left_behind(stock, "1", "2", priority=0)
    left_behind(stock, "fresh", age=10)
    stored = q.rig.snapshot()

    restored, found = restore(q)
    assert restored == 0
    assert {each.tag for each in found} == set(tags)
    assert {(each.exchange, each.routing_key) for each in found} == {('""', '"q"')}
    assert q.rig.snapshot() == stored


def test_named_it_is_ready_again_and_counted(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1")
    original = json.loads(q.db.hget("unacked", tag))[0]
    assert restore(q, (tag, 0)) == (1, [])
    (raw,) = q.ready
    assert json.loads(raw) == {"x-deliveries": 1, **original}
    assert q.db.exists("unacked", "unacked_index") == 0
    assert q.tokens == 1
    assert q.stats["restored"] == 1
    (got,) = q.take()
    assert got.deliveries == 2


def test_a_stock_worker_can_read_it_again(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1")
    restore(q, (tag, 0))
    message = kombu.Queue("q", channel=stock).get()
    assert message.payload == {"x": "1"}
    message.ack()


def test_priority_is_found_in_the_message(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1", priority=6)
    _, (found,) = restore(q)
    assert found.priority == 6
    restore(q, (tag, 6))
    assert q.db.llen(q.keys.ready[2]) == 1


def test_a_fresh_one_is_left_to_its_holder(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1", age=10)
    assert restore(q, (tag, 0)) == (0, [])
    assert q.db.hexists("unacked", tag)


def test_twice_is_once(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1")
    assert restore(q, (tag, 0), (tag, 0))[0] == 1
    assert restore(q, (tag, 0))[0] == 0
    assert len(q.ready) == 1


def test_limit_and_nought_only_restores(q: Queue, stock: Any) -> None:
    tags = left_behind(stock, "1", "2", "3")
    assert len(restore(q, limit=2)[1]) == 2
    assert restore(q, (tags[0], 0), limit=0) == (1, [])


def test_back_at_the_end_that_goes_out_next(q: Queue, stock: Any) -> None:
    tags = left_behind(stock, "old")
    q.put("new")
    restore(q, (tags[0], 0))
    assert b"x-deliveries" in q.ready[0]


def test_a_paused_queue_gets_no_token(q: Queue, stock: Any) -> None:
    (tag,) = left_behind(stock, "1")
    q.run(calls.pause(q.keys))
    restore(q, (tag, 0))
    assert (len(q.ready), q.tokens) == (1, 0)


# ── hostile records ───────────────────────────────────────────────────────────────────────────


def foreign(q: Queue, tag: str, record: bytes) -> None:
    q.rig.allowed |= {b"unacked", b"unacked_index"}
    q.db.hset("unacked", tag, record)
    q.db.zadd("unacked_index", {tag: time.time() - 100})


NAMES = ["q", "", 'a"b', "a, b", "ü€", '","', "]", "{q}", "a\nb", "\\"]


@pytest.mark.parametrize("exchange", NAMES)
def test_hostile_names_are_read_right(q: Queue, exchange: str) -> None:
    for key in NAMES:
        foreign(q, "tag", json.dumps([json.loads(msg(key)), exchange, key]).encode())
        _, (found,) = restore(q)
        assert (json.loads(found.exchange), json.loads(found.routing_key)) == (exchange, key)
        restore(q, ("tag", 0))
    assert names(q.ready) == NAMES[::-1]


def record(body: str, priority: object = 0, **properties: Any) -> bytes:
    """As stock writes it."""
    message = {
        "body": body,
        "headers": {"task": "t"},
        "properties": {**properties, "priority": priority, "body_encoding": "base64"},
    }
    return json.dumps([message, "", "q"]).encode()


HOSTILE = {
    "letters": "x",
    "quotes": '"',
    "backslashes": "\\",
    "names": '", "',
    "brackets": '["a", "b"]',
    "priorities": '"priority": 1, ',
    "line ends": "\n",
}


def micros(q: Queue, *targets: tuple[str, int]) -> int:
    """What a call costs by the server's account: the best of three, for the machine is shared."""
    spent = []
    for _ in range(3):
        q.db.config_resetstat()
        restore(q, *targets)
        spent.append(int(q.db.info("commandstats")["cmdstat_evalsha"]["usec"]))
    return min(spent)


@pytest.mark.parametrize("of", HOSTILE)
def test_a_large_record_is_read_in_linear_time(q: Queue, of: str) -> None:
    """45 KB of arguments and a priority of 10 held the server for 14 s, at every look."""
    small, large = (record(HOSTILE[of] * (n // len(HOSTILE[of])), 10) for n in (1000, 100_000))
    foreign(q, "tag", small)
    least = micros(q)
    foreign(q, "tag", large)
    assert micros(q) < least + 5000
    _, (found,) = restore(q)
    assert (found.exchange, found.routing_key, found.priority) == ('""', '"q"', 9)
    assert restore(q, ("tag", 9))[0] == 1
    assert json.loads(q.ready[0])["body"] == json.loads(large)[0]["body"]


@pytest.mark.parametrize("tail", [b'"', b'"]', b'\\"]', b'"", "q"]', b'"q", "q"', b', "q"]'])
def test_large_junk_is_looked_at_in_linear_time(q: Queue, tail: bytes) -> None:
    for junk in (b'"', b"\\", b', "', b"["):
        spent = []
        for _ in range(3):  # the best of them: the machine is shared
            foreign(q, "tag", b'[{"' + junk * (500_000 // len(junk)) + tail)
            q.db.config_resetstat()
            restore(q)
            spent.append(int(q.db.info("commandstats")["cmdstat_evalsha"]["usec"]))
            assert q.db.zcard("unacked_index") == len(q.db.hkeys("unacked"))
            q.db.delete("unacked", "unacked_index")
        assert min(spent) < 20_000


@pytest.mark.parametrize(
    ("given", "read"), [(0, 0), (9, 9), (10, 9), (255, 9), (-1, 0), (None, 0), ("3", 0), (2.5, 0)]
)
def test_priorities_are_what_stock_makes_of_them(q: Queue, given: object, read: int) -> None:
    foreign(q, "tag", record('{"priority": 7, "x": {"priority": 8}}', given, priority_of=3))
    assert restore(q)[1][0].priority == read


def test_a_call_reads_so_many_bytes(q: Queue) -> None:
    for i in range(5):
        foreign(q, f"tag{i}", record("x" * 400_000))
    _, found = restore(q)
    assert len(found) == 3
    assert restore(q, *((each.tag, 0) for each in found), limit=0)[0] == 3
    everything = [(f"tag{i}", 0) for i in range(5)]
    assert restore(q, *everything, limit=0)[0] == 2
    assert len(q.ready) == 5


JUNK = [b"", b"[]", b"junk", b'["", "", ""]', b'[1, "", "q"]', b'[{"a": 1}, "", "q"', b"\xff"]


@pytest.mark.parametrize("record", JUNK)
def test_what_cannot_be_read_is_a_dead_letter(q: Queue, record: bytes) -> None:
    foreign(q, "tag", record)
    assert restore(q) == (0, [])
    (letter,) = q.dead
    assert (letter.reason, letter.raw) == ("undecodable", record)
    assert q.db.exists("unacked") == 0
    assert q.stats["dead"] == 1


def test_a_tag_without_a_record_is_dropped(q: Queue) -> None:
    q.rig.allowed |= {b"unacked_index"}
    q.db.zadd("unacked_index", {"ghost": 1})
    assert restore(q) == (0, [])
    assert q.db.exists("unacked_index") == 0


def test_the_bytes_of_the_message_stay(q: Queue) -> None:
    """Decoded and encoded again in Lua, [] becomes {} and microseconds 1.7e+15."""
    inner = b'{"body": "m", "headers": {"a": [], "n": 1718000000123456, "f": 1e5}, "p": null}'
    foreign(q, "tag", b'[%s, "", "q"]' % inner)
    restore(q, ("tag", 0))
    assert q.ready == [b'{"x-deliveries":1,' + inner[1:]]
    assert name_of(q.ready[0]) == "m"
