"""What callers get wrong and what messages hold: one of our errors, and no message is stuck."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atomq import AtomqError, InvalidArgument, InvalidMessage, Verdict, calls
from tests.conformance.test_consume import counts, now
from tests.conformance.twin import run

# A real server and the one in memory: what is tested here is decided in the client.
pytestmark = pytest.mark.parametrize("place", ["embedded", "memory"], indirect=True)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS = [ValueError(os.fsdecode(b"caf\xe9 is not known")), Mute(), ValueError("x" * 100_000)]


@pytest.mark.parametrize("error", ERRORS, ids=["half a surrogate", "no text", "long"])
def test_an_exception_of_any_text_settles_its_message(make: Any, error: Exception) -> None:
    q = make(max_deliveries=1)
    q.put(1)
    with pytest.raises(type(error)), q.claim():
        raise error
    assert counts(q) == (0, 0, 0, 1)
    assert q.peek("dead")[0].detail.startswith(type(error).__name__)


def test_a_detail_may_be_any_text_and_a_reason_is_checked_before(q: Any) -> None:
    q.put(1)
    message = q.claim()
    for reason, detail in (("\udce9", ""), ("bad", 5), ("bad", ValueError("x"))):
        with pytest.raises(InvalidArgument):
            message.reject(reason, detail)
    assert message.reject("bad", os.fsdecode(b"caf\xe9")) is Verdict.DONE
    assert q.peek("dead")[0].detail == r"caf\udce9"


def push(q: Any, raw: str) -> None:
    """Put an envelope into the list as it stands, as another program may."""
    run(q, calls.publish(q.keys, [calls.Outgoing(raw, "x")]))


@pytest.mark.parametrize("part", ["id", "headers", "properties", "body"])
def test_what_cannot_be_decoded_goes_at_once_whichever_part_is_asked_for(
    make: Any, part: str
) -> None:
    q = make(backoff=now)
    push(q, '{"body": nul}')
    with pytest.raises(InvalidMessage), q.claim() as message:
        getattr(message, part)
    assert counts(q) == (0, 0, 0, 1)
    assert q.peek("dead")[0].reason == "undecodable"


@pytest.mark.parametrize("name", ["\udce9", ["x"], {"a": 1}], ids=repr)
def test_an_id_that_no_key_can_hold_stops_neither_release_nor_ack(make: Any, name: Any) -> None:
    q = make()
    raw = json.dumps({"body": "1", "properties": {"message_id": name}})
    push(q, raw)
    q.claim().release(delay=0.01)
    message = q.claim(timeout=5)
    assert message.deliveries == 2
    assert message.body == 1
    with pytest.raises(InvalidMessage, match="the message's id"), message:
        _ = message.id
    assert counts(q) == (0, 0, 0, 1)
    push(q, raw)
    with pytest.raises(InvalidMessage), q.claim() as message:
        message.complete(1)
    assert counts(q) == (0, 0, 0, 2)


def broken(_: int) -> float:
    raise KeyError("settings")


@pytest.mark.parametrize(
    "backoff", [broken, lambda _: "5", lambda _: None, lambda _: -1, lambda _: 10**400]
)
def test_a_backoff_that_fails_leaves_no_message_stuck(make: Any, backoff: Any, caplog: Any) -> None:
    q = make(backoff=backoff)
    q.put(1)
    with pytest.raises(ZeroDivisionError), q.claim():
        _ = 1 / 0
    assert counts(q) == (0, 1, 0, 0)
    assert "the backoff failed" in caplog.text


def test_a_timedelta_is_taken_wherever_seconds_are(make: Any) -> None:
    tenth = timedelta(seconds=0.1)
    q = make(backoff=lambda _: tenth, lease=timedelta(minutes=1), visibility_timeout=timedelta(1))
    assert q.engine.options.lease_ms == 60_000
    assert q.engine.options.visibility_timeout == 86_400
    assert q.claim(timeout=tenth) is None
    q.put(1, delay=tenth, ttl=timedelta(hours=1))
    with pytest.raises(ZeroDivisionError), q.claim(timeout=timedelta(seconds=5)):
        _ = 1 / 0
    message = q.claim_many(1, timeout=timedelta(seconds=5))[0]
    message.extend(timedelta(minutes=2))
    message.release(timedelta(milliseconds=1))
    assert [m.deliveries for m in q.consume(timeout=tenth)] == [3]
    with pytest.raises(AtomqError, match=r"within 0\.1 s"):
        q.wait("nothing", timeout=tenth)


def test_the_far_future_is_kept(q: Any) -> None:
    last = datetime(2109, 5, 15, tzinfo=UTC)
    q.put(1, at=last)
    [waiting] = q.peek("delayed")
    assert waiting.time_ms == last.timestamp() * 1000


SCHEMAS = [
    # A body is judged as the JSON that a consumer will read.
    ({"type": "array"}, (1, 2), None),
    ({"items": {"type": "string"}}, (1, 2), "is not of type 'string'"),
    ({"properties": {"1": {"type": "integer"}}}, {1: "a"}, "is not of type 'integer'"),
    ({"patternProperties": {"^a": {}}}, {1: 2}, None),
    ({"format": "email"}, "ann", "is not a 'email'"),
    ({"format": "date-time"}, "2030-02-30T12:00:00Z", "is not a 'date-time'"),
    ({"format": "date-time"}, "2030-01-31 12:00", "is not a 'date-time'"),
    ({"format": "date-time"}, "2030-01-31T12:00:00.5+01:00", None),
    ({"format": "date-time"}, 7, None),
    ({"$ref": "#/$defs/nope"}, 1, "refers to what is not in it"),
    ({"$ref": "http://127.0.0.1:9/schema"}, 1, "refers to what is not in it"),
    (
        {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n"}}}}},
        json.loads('{"a":' * 900 + "1" + "}" * 900),
        "cannot be",
    ),
    ({"multipleOf": 0.1}, 10**400, "cannot be held against"),
]


@pytest.mark.parametrize(("schema", "body", "refused"), SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_schema_judges_what_is_sent(make: Any, schema: Any, body: Any, refused: Any) -> None:
    q = make(schema=schema)
    if refused is None:
        q.put(body)
        assert q.claim().body == json.loads(json.dumps(body))
    else:
        with pytest.raises(InvalidArgument, match=refused):
            q.put(body)
        assert counts(q) == (0, 0, 0, 0)


class Huge(str):
    __slots__ = ()

    def __len__(self) -> int:
        return 1 << 29


def test_what_no_server_takes_is_refused_before_it_is_sent(q: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"message 0 has 536,870,912 bytes"):
        calls.publish(q.keys, [calls.Outgoing(Huge("{}"), "x")])
    with pytest.raises(InvalidMessage, match="the result has 536,870,912 bytes"):
        calls.check_size("the result", Huge("{}"))
