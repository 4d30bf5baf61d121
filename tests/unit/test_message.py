"""The envelope: what is written here stock Kombu reads, and the other way round."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message as KombuMessage
from kombu.serialization import dumps
from kombu.transport.virtual import Base64, Channel

from atomq.delivery import Delivery
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.message import Envelope, Writer, check_priority
from atomq.serializers import BYTES, JSON, Serializer

text = st.text(st.characters(codec="utf-8"), max_size=40)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)
# A header of this name is the message's id: it has tests of its own.
headers = st.dictionaries(text.filter("id".__ne__), scalars, max_size=4)


BASE64 = b'"properties": {"body_encoding": "base64"}'


def read_by_kombu(raw: str | bytes) -> KombuMessage:
    """What a stock consumer's callback is given for these bytes."""
    payload = json.loads(raw)
    channel: Any = Channel.__new__(Channel)
    channel.codecs, channel.body_encoding = {"base64": Base64()}, "base64"
    return channel.message_to_python(payload)  # type: ignore[no-any-return]


def written_by_kombu(body: Any, headers: dict[str, Any] | None = None, **how: Any) -> bytes:
    """What a stock producer puts into the list."""
    content_type, encoding, data = dumps(body, **how)
    payload = data.encode() if isinstance(data, str) else data
    message = {
        "body": base64.b64encode(payload).decode(),
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": headers or {},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(message).encode()


@given(body=values, headers=headers, priority=st.integers(0, 9), name=text.filter(bool))
def test_what_is_written_is_read_again_and_by_kombu(
    body: Any, headers: dict[str, Any], priority: int, name: str
) -> None:
    raw = Writer(name).write(body, "id-1", priority=priority, headers=headers)
    assert raw.startswith('{"')
    envelope = Envelope(raw.encode())
    assert (envelope.body(), envelope.headers, envelope.id) == (body, headers, "id-1")
    message = read_by_kombu(raw)
    assert (message.decode(), message.headers) == (body, headers)
    assert read_by_kombu(raw).channel._get_message_priority(json.loads(raw)) == priority
    assert message.delivery_info["routing_key"] == name
    assert message.delivery_tag == "id-1"
    assert message.content_type == "application/json"


@given(body=st.binary(max_size=100))
def test_bytes_go_both_ways_too(body: bytes) -> None:
    raw = Writer("q", BYTES).write(body, "id-1")
    assert Envelope(raw.encode()).body(BYTES) == body
    message = read_by_kombu(raw)
    assert message.body == body
    assert message.content_encoding == "binary"


@given(body=values, headers=headers)
def test_what_kombu_wrote_is_read(body: Any, headers: dict[str, Any]) -> None:
    raw = written_by_kombu(body, headers, serializer="json")
    envelope = Envelope(raw)
    assert (envelope.body(), envelope.headers) == (body, headers)
    assert envelope.id == envelope.properties["delivery_tag"]


def test_other_serializers_of_kombu() -> None:
    with pytest.raises(InvalidMessage, match="python-serialize"):
        Envelope(written_by_kombu({1, 2}, serializer="pickle")).body()
    raw = written_by_kombu(b"\x00\xff", serializer="raw")
    assert Envelope(raw).body(Serializer("application/data", bytes, bytes)) == b"\x00\xff"
    assert Envelope(written_by_kombu("text", serializer=None)).data == "text"


def test_the_id_is_the_message_id_or_celerys_or_the_tag() -> None:
    def envelope(**parts: Any) -> Envelope:
        return Envelope(json.dumps({"body": "1", **parts}).encode())

    assert envelope(properties={"message_id": "m", "delivery_tag": "t"}).id == "m"
    assert envelope(headers={"id": "task"}, properties={"delivery_tag": "t"}).id == "task"
    assert envelope(properties={"delivery_tag": "t"}).id == "t"
    assert envelope().id == ""
    assert envelope(**{"x-expires": 7}).expires_ms == 7
    assert envelope().expires_ms is None
    assert envelope(headers=None, properties=[]).headers == {}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a JSON object but list"),
        (b"{" * 100_000, "not JSON"),
        (b'{"body": 7}', "not text but int"),
        (b'{"body": "###", "properties": {"body_encoding": "base64"}}', "not base64"),
        (b'{"body": null, "properties": {"body_encoding": "base64"}}', "not base64"),
        (b'{"body": "", "properties": {"body_encoding": "zip"}}', "'zip' is not known"),
        (
            b'{"body": "/w==", "content-encoding": "utf-8", %s}' % BASE64,
            "text cannot be decoded",
        ),
        (
            b'{"body": "/w==", "content-encoding": "punycode", %s}' % BASE64,
            "'punycode' is not known",
        ),
        (
            b'{"body": "/w==", "content-encoding": "a\\n\\u001b[1m", %s}' % BASE64,
            r"'a.*n.*m' is not",
        ),
        (b'{"body": "/w==", "content-encoding": ["utf-8"], %s}' % BASE64, "is not known"),
        (b'{"body": "{", "content-type": "application/json"}', "cannot be deserialized"),
        (b'{"body": "1", "content-type": "text/x"}', "this queue reads 'application/json'"),
    ],
)
def test_what_cannot_be_read_says_why(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidMessage, match=says):
        Envelope(raw).body()


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        (5, 5.0),
        ("5.5", 5.5),
        (None, None),
        ("soon", None),
        ("nan", None),
        ([], None),
        (10**400, None),
    ],
    ids=lambda each: str(each)[:9],
)
def test_when_it_was_put_is_what_its_producer_says_if_it_is_a_time(
    timestamp: Any, seconds: float | None
) -> None:
    written = json.dumps({"properties": {"timestamp": timestamp}}).encode()
    assert Envelope(written).put_s == seconds


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b"[1]"])
def test_of_what_is_no_envelope_it_is_not_known(raw: bytes) -> None:
    assert Envelope(raw).put_s is None


def test_what_cannot_be_written_says_why() -> None:
    nested: list[Any] = []
    nested.append(nested)
    for body in ({1}, nested, b"bytes"):
        with pytest.raises(InvalidMessage):
            Writer("q", JSON).write(body, "id")
    with pytest.raises(InvalidMessage, match="a bytes queue takes bytes, got str"):
        Writer("q", BYTES).write("text", "id")
    for priority in (-1, 10, 1.5, True, "1"):
        with pytest.raises(InvalidArgument):
            check_priority(priority)  # type: ignore[arg-type]


def _circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("body", [{1, 2}, {"a": object()}, {(1,): 2}, _circle()], ids=type)
def test_what_json_cannot_say_is_refused(body: Any) -> None:
    with pytest.raises(InvalidMessage, match="cannot be serialized"):
        Writer("q").write(body, "id")
    assert JSON.dumps([1]) == "[1]"  # and leaves nothing behind


def test_an_envelope_says_nothing_that_kombu_can_do_without() -> None:
    """message_id, delivery_mode, priority, content-encoding and blanks were 125 bytes of each."""
    raw = Writer("emails").write({"n": 1}, "id-1")
    envelope = json.loads(raw)
    properties = envelope.pop("properties")
    assert envelope == {"body": '{"n":1}', "content-type": "application/json", "headers": {}}
    assert abs(properties.pop("timestamp") - time.time()) < 60
    assert properties == {
        "delivery_info": {"exchange": "", "routing_key": "emails"},
        "delivery_tag": "id-1",
    }
    message = read_by_kombu(raw)
    assert (message.payload, message.delivery_tag) == ({"n": 1}, "id-1")


def test_a_header_is_not_taken_for_the_id() -> None:
    raw = Writer("q").write(1, "id-1", headers={"id": "another"})
    assert Envelope(raw.encode()).id == "id-1"


def test_what_the_release_before_wrote_is_read() -> None:
    raw = (
        b'{"body": "1", "content-encoding": "utf-8", "content-type": "application/json", '
        b'"headers": {}, "properties": {"delivery_mode": 2, "delivery_info": {"exchange": "", '
        b'"routing_key": "q"}, "priority": 0, "timestamp": 1764350000.123, '
        b'"message_id": "id-1", "delivery_tag": "id-1"}}'
    )
    envelope = Envelope(raw)
    assert (envelope.body(), envelope.id) == (1, "id-1")


# ── one that was claimed ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b'{"a":1}', "r"),
        (b'{"xa":1}', "r"),
        (b'{"x-deliveries":2,"a":"x-tracked"}', "r"),
        (b'{"x-tracked":"name","a":1}', "r name"),
        (b'{"x-tracked": "name 12", "a": 1}', "r name"),
        (b'{"x-deliveries":2,"x-expires":"7","x-spared":1,"x-tracked":"name","a":1}', "r name"),
    ],
)
def test_the_ack_of_what_is_tracked_names_its_record(raw: bytes, word: str) -> None:
    assert Delivery("q", "r", 1, 1, raw).word == word


@pytest.mark.parametrize(
    ("deliveries", "raw", "spared"),
    [
        (3, b'{"a":1}', 0),
        (1, b'{"x-spared":1,"a":1}', 0),
        (2, b'{"x-spared":1,"a":1}', 1),
        (4, b'{"x-deliveries":3,"x-spared": 2, "a": 1}', 2),
        (4, b'{"x-spared":9,"a":1}', 3),
    ],
)
def test_what_counts_are_the_deliveries_that_were_not_spared(
    deliveries: int, raw: bytes, spared: int
) -> None:
    found = Delivery("q", "r", deliveries, 1, raw)
    assert (found.spared, found.charged) == (spared, deliveries - spared)
