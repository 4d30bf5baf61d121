"""A message is read as Kombu reads it, at less cost: no decoder is made for each one."""

from __future__ import annotations

import base64
import gc
import json
import sys
from types import FrameType
from typing import Any

import pytest
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.transport.virtual import base
from kombu.utils.json import dumps

from atomq.contrib.kombu import qos
from atomq.contrib.kombu.channel import Channel
from atomq.delivery import Delivery

BODIES = [
    b'[[], {}, {"callbacks": null}]',
    b' {"a": [1, 2.5, NaN]} ',
    dumps([{"when": base64.b64decode("AAH/")}]).encode(),
    b'{"__type__": "uuid", "__value__": {"hex": "0123456789abcdef0123456789abcdef"}}',
    b'{"\\u005f_type_\\u005F": "uuid", "__value__": {"hex": "0123456789abcdef0123456789abcdef"}}',
    b'{"__type__": "of nobody", "__value__": 1}',
    b"null",
    b"",
    b"not JSON",
    b"[1] and more",
    b"\xff\xfe",
    b'\xef\xbb\xbf{"a": 1}',
    "äöü €".encode(),
]


def _channel() -> Any:
    return Channel.__new__(Channel)


def _message(
    body: bytes, kind: str = "application/json", accept: Any = None, encoding: Any = "utf-8"
) -> Any:
    payload = {
        "body": base64.b64encode(body).decode(),
        "content-type": kind,
        "content-encoding": encoding,
        "headers": {},
        "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {}},
    }
    message = qos.Message(payload, channel=_channel())
    message.accept = accept
    return message


def _said(read: Any) -> Any:
    try:
        return repr(read())
    except Exception as error:  # noqa: BLE001 - whatever Kombu raises
        return type(error)


def _said_by_kombu(message: Any) -> Any:
    """What Kombu's own method makes of it, and not what `decode` keeps."""
    return _said(lambda: base.Message._decode(message))


@pytest.mark.parametrize("accept", [{"application/json"}, {"application/data"}, None])
@pytest.mark.parametrize("kind", ["application/json", "application/data", "application/x-none"])
@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_read_as_by_kombu(body: bytes, kind: str, accept: Any) -> None:
    message = _message(body, kind, accept)
    assert message.body == body
    assert _said(message.decode) == _said_by_kombu(message)


@pytest.mark.parametrize("encoding", [None, "", "UTF-8", "latin-1", "binary", 5, True, ["utf-8"]])
def test_an_encoding_is_refused_as_by_kombu(encoding: Any) -> None:
    message = _message(b'["\xc3\xa4"]', accept={"application/json"}, encoding=encoding)
    assert _said(message.decode) == _said_by_kombu(message)


def test_what_kombu_raises_is_raised() -> None:
    with pytest.raises(DecodeError):
        _message(b"not JSON", accept={"application/json"}).decode()
    with pytest.raises(ContentDisallowed):
        _message(b"[]", accept={"application/x-other"}).decode()


def test_a_reader_of_json_that_a_program_registers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serialization.registry._decoders, "application/json", lambda _: "its own")
    assert _message(b"[]", accept={"application/json"}).decode() == "its own"


@pytest.mark.parametrize("text", ["", "YQ==", "YQ", "Y Q = =", "YÄQ==", b"YWJj", "****", "Y"])
def test_base64_is_read_as_by_kombu(text: Any) -> None:
    ours, stock = _channel().codecs["base64"], base.Base64()
    assert _said(lambda: ours.decode(text)) == _said(lambda: stock.decode(text))


@pytest.mark.parametrize("data", ["", "text", "€", b"\x00\xff", b"x" * 100])
def test_base64_is_written_as_by_kombu(data: Any) -> None:
    assert _channel().codecs["base64"].encode(data) == base.Base64().encode(data)


def test_reading_a_task_takes_few_calls() -> None:
    """The figure is counted: calls of Python functions, which no load moves."""
    headers = {"task": "noop", "id": "i", "eta": None, "timelimit": [None, None], "retries": 0}
    raw = {
        "body": base64.b64encode(BODIES[0]).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}},
    }
    delivery, channel = Delivery("q", "r", 1, 1, json.dumps(raw).encode()), _channel()
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # what other tests left to be collected runs functions of its own
    sys.setprofile(count)
    try:
        message = channel.Message(channel._payload(delivery), channel=channel)
        message.accept = {"application/json"}
        message.decode()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert calls <= 18
