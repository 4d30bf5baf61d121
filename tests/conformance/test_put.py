"""Putting: what comes out is what went in, when and in the order it was asked for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atomq import (
    BYTES,
    InvalidArgument,
    InvalidMessage,
    Item,
    Serializer,
    ServerFull,
    Verdict,
)
from tests.servers import wait_until

UPPER = Serializer("text/x-upper", lambda body: body.upper(), lambda data: data.lower())


def test_a_body_comes_out_as_it_went_in(q: Any) -> None:
    bodies = [{"a": [1, 2.5, None, True, "ä\n\u2028"], "": {}}, [], "text", 0, None, "🎉"]
    sent = q.put_many(bodies)
    messages = q.claim_many(10)
    assert [message.body for message in messages] == bodies
    assert [message.id for message in messages] == [one.id for one in sent]
    assert all(one.new for one in sent)
    assert q.ack_many(messages) == [Verdict.DONE] * 6
    assert q.state().unacked == 0


def test_a_message_of_230_bytes_put_alone_costs_450_at_most(place: Any, q: Any) -> None:
    """Nothing grows with the number of puts but the list that stock reads too."""
    if place.server is None:
        pytest.skip("what it stores is Python's")

    def stored() -> int:
        keys = place.db.keys("*")
        return sum(place.db.memory_usage(key, samples=0) for key in keys)

    body = {"text": "x" * 219}
    for _ in range(60):
        q.put(body)
    before = stored()
    for _ in range(600):
        q.put(body)
    assert (stored() - before) / 600 <= 450


def test_bytes_and_text_of_other_serializers(make: Any) -> None:
    raw = bytes(range(256)) * 3
    make(serializer=BYTES).put(raw)
    with make(serializer=BYTES).claim() as message:
        assert message.body == raw
    make(serializer=UPPER).put("hello")
    with make(serializer=UPPER).claim() as message:
        assert message.body == "hello"
        assert b"HELLO" in message.raw


def test_what_another_serializer_wrote_is_refused_not_guessed(make: Any) -> None:
    make(serializer=BYTES).put(b"\x00")
    message = make().claim()
    with pytest.raises(InvalidMessage, match="octet-stream"):
        _ = message.body
    message.reject("foreign")


def test_a_body_that_is_not_json_is_refused(q: Any) -> None:
    for body in ({1, 2}, object(), b"bytes", float):
        with pytest.raises(InvalidMessage, match="cannot be serialized"):
            q.put(body)


def test_many_are_put_in_order(q: Any) -> None:
    q.put_many(range(2500))
    assert q.state().ready == 2500
    got: list[int] = []
    while messages := q.claim_many(1000):
        got += [message.body for message in messages]
        q.ack_many(messages)
    assert got == list(range(2500))
    assert q.put_many([]) == []


@pytest.mark.alone
def test_a_delay_is_kept(q: Any) -> None:
    began = time.monotonic()
    q.put("later", delay=0.1)
    q.put("now")
    assert [m.body for m in q.claim_many(10)] == ["now"]
    assert q.claim(timeout=5).body == "later"
    assert 0.1 <= time.monotonic() - began < 0.3


def test_at_is_a_time_of_the_server(q: Any) -> None:
    now_ms = q.state().now_ms
    when = datetime.fromtimestamp(now_ms / 1000, UTC) + timedelta(seconds=0.25)
    q.put("past", at=when - timedelta(days=1))
    assert q.claim(timeout=0).body == "past"
    due_ms = {"number": now_ms + 200, "date": now_ms + 250}
    q.put("date", at=when)
    q.put("number", at=now_ms / 1000 + 0.2)
    while due_ms:
        body = q.claim(timeout=5).body
        assert q.state().now_ms >= due_ms.pop(body)
    with pytest.raises(InvalidArgument, match="time zone"):
        q.put("naive", at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point


def test_priority_0_goes_first(q: Any) -> None:
    q.put_many(
        [
            Item("nine", priority=9),
            Item("five", priority=5),
            Item("none"),
            Item("three", priority=3),
        ]
    )
    messages = q.claim_many(10)
    assert [(m.body, m.priority) for m in messages] == [
        ("none", 0),
        ("five", 3),
        ("three", 3),
        ("nine", 9),
    ]


def test_an_id_is_put_once_a_window(q: Any) -> None:
    first = q.put({"n": 1}, id="order-1")
    second = q.put({"n": 2}, id="order-1")
    assert (first.new, second.new, second.id) == (True, False, "order-1")
    both = q.put_many([Item(1, id="a"), Item(2, id="b"), Item(3, id="a"), Item(4, id="order-1")])
    assert [one.new for one in both] == [True, True, False, False]
    messages = q.claim_many(10)
    assert [m.body for m in messages] == [{"n": 1}, 1, 2]
    q.ack_many(messages)
    assert q.put("again", id="order-1").new is False


def test_headers(q: Any) -> None:
    q.put("x", headers={"trace": "1-2", "n": [1]})
    assert q.claim().headers == {"trace": "1-2", "n": [1]}
    with pytest.raises(InvalidMessage):
        q.put("x", headers={"trace": object()})


def test_what_outlives_its_ttl_is_a_dead_letter(q: Any) -> None:
    q.put("stale", ttl=0.05)
    q.put("fresh", ttl=60)
    put_ms = q.state().now_ms
    wait_until("the first to expire", lambda: q.state().now_ms > put_ms + 60)
    assert [m.body for m in q.claim_many(10)] == ["fresh"]
    [letter] = q.peek("dead")
    assert letter.reason == "expired"


ORDER = {
    "type": "object",
    "required": ["lines"],
    "properties": {"lines": {"type": "array", "items": {"properties": {"n": {"minimum": 1}}}}},
}


def test_a_schema_is_met_or_the_error_names_the_path(make: Any) -> None:
    orders = make(schema=ORDER)
    orders.put({"lines": [{"n": 1}]})
    with pytest.raises(InvalidMessage, match=r"\$\.lines\[1\]\.n: 0 is less than"):
        orders.put({"lines": [{"n": 1}, {"n": 0}]})
    with pytest.raises(InvalidMessage, match="'lines' is a required property"):
        orders.put_many([{"lines": []}, {}])
    assert orders.state().ready == 1, "put_many puts nothing if one body is refused"
    with pytest.raises(InvalidArgument, match="no JSON Schema"):
        make(schema={"type": "objekt"})


def test_settings_out_of_range_are_refused(q: Any) -> None:
    for settings in (
        {"delay": -1},
        {"delay": "1"},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"ttl": -1},
        {"priority": 10},
        {"priority": True},
        {"id": ""},
        {"id": 7},
        {"id": "x" * 257},
        {"at": "tomorrow"},
    ):
        with pytest.raises(InvalidArgument):
            q.put("x", **settings)
    assert q.state().ready == 0


def test_names_of_all_scripts(place: Any, make: Any) -> None:
    for name in ("ünï cödé 🎉", "a:b", "x" * 500, "spaces and 'quotes\"", "new\nline"):
        queue = make(name)
        queue.put(name)
        with queue.claim() as message:
            assert message.body == name
        queue.purge("ready", "delayed", "unacked", "dead")
        if place.server is not None:
            place.db.flushall()


@pytest.mark.on_servers
def test_a_full_server_refuses_to_take_more_and_goes_on_giving(place: Any, q: Any) -> None:
    q.put_many(range(10))
    place.db.config_set("maxmemory", 1)
    with pytest.raises(ServerFull, match="maxmemory"):
        q.put("more")
    with q.claim() as message:
        assert message.body == 0
    assert q.claim().complete({"done": True}) is Verdict.DONE
    place.db.config_set("maxmemory", 0)
    q.put("more")
    assert q.state().ready == 9
