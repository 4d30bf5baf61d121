"""Messages that no worker can take: kinds that are known to have killed one, and random ones."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def good(task_id: str, **changes: Any) -> dict[str, Any]:
    """The envelope of a task that can be run."""
    body = base64.b64encode(json.dumps([[], {}, _EMBED]).encode()).decode()
    envelope: dict[str, Any] = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "work",
            "id": task_id,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "nobody",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"tag-{task_id}",
        },
    }
    return {**envelope, **changes}


def _body(value: bytes | str) -> Callable[[dict[str, Any]], None]:
    raw = value.encode() if isinstance(value, str) else value

    def change(envelope: dict[str, Any]) -> None:
        envelope["body"] = base64.b64encode(raw).decode()

    return change


def _set(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(envelope: dict[str, Any]) -> None:
        *path, name = place.split("/")
        for part in path:
            envelope = envelope[part]
        envelope[name] = value

    return change


def _drop(place: str) -> Callable[[dict[str, Any]], None]:
    def change(envelope: dict[str, Any]) -> None:
        *path, name = place.split("/")
        for part in path:
            envelope = envelope[part]
        del envelope[name]

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "bad base64": _set("body", "!!! not base64 !!!"),
    "base64 cut off": _set("body", "AAAAA"),
    "unknown body encoding": _set("properties/body_encoding", "rot13"),
    "body encoding a list": _set("properties/body_encoding", ["base64"]),
    "headers a list": _set("headers", ["task", "id"]),
    "headers null": _set("headers", None),
    "headers text": _set("headers", "task"),
    "body a 2-tuple": _body(json.dumps([[], {}])),
    "body an int": _body("7"),
    "body null": _body("null"),
    "body an object": _body('{"a": 1}'),
    "args an object": _body(json.dumps([{"a": 1}, {}, _EMBED])),
    "no id": _drop("headers/id"),
    "id null": _set("headers/id", None),
    "task an object": _set("headers/task", {"name": "work"}),
    "task null": _set("headers/task", None),
    "no task": _drop("headers/task"),
    "unknown task": _set("headers/task", "nobody.knows"),
    "bad charset": _set("content-encoding", "utf-99"),
    "bytes that are no text": _body(b"\xff\xfe\xff"),
    "body not JSON": _body("{not json"),
    "bad compression": _set("headers/compression", "application/x-gzip"),
    "unknown compression": _set("headers/compression", "application/x-nothing"),
    "unknown content type": _set("content-type", "application/x-nothing"),
    "disallowed content type": _set("content-type", "application/x-python-serialize"),
    "invalid eta": _set("headers/eta", "the day after"),
    "eta a number": _set("headers/eta", 12),
    "invalid expires": _set("headers/expires", "never"),
    "no properties": _drop("properties"),
    "properties null": _set("properties", None),
    "properties text": _set("properties", "none"),
    "delivery info text": _set("properties/delivery_info", "celery"),
    "no body": _drop("body"),
    "time limit a number": _set("headers/timelimit", 7),
    "time limit text": _set("headers/timelimit", ["soon", "later"]),
    "stamps text": _set("headers/stamped_headers", ["a", {}]),
    "first protocol, bad time limit": lambda envelope: (
        _set("headers", {})(envelope),
        _body(json.dumps({"task": "work", "id": "one", "timelimit": 7, "args": [], "kwargs": {}}))(
            envelope
        ),
    )[0],
    "deep nesting": _body("[" * 100_000),
    "zlib that is none": lambda envelope: (
        _set("headers/compression", "application/x-gzip")(envelope),
        _body(zlib.compress(b"x")[:-3])(envelope),
    )[0],
}
RAW: dict[str, bytes] = {
    "not JSON": b"hello",
    "a JSON list": b'["body"]',
    "a JSON number": b"12",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "cut off": json.dumps(good("cut")).encode()[:-20],
    "empty object": b"{}",
    "an object of nothing known": b'{"a": 1}',
    "nested without end": b'{"body": ' + b"[" * 50_000,
    "lone surrogate": b'{"body": "\\ud800", "headers": {}, "properties": {"delivery_tag": "x"}}',
}


def kinds() -> dict[str, bytes]:
    """Every kind by name, as it lies in the queue."""
    found = dict(RAW)
    for n, (name, change) in enumerate(CHANGES.items()):
        envelope = good(f"poison-{n}")
        change(envelope)
        found[name] = json.dumps(envelope).encode()
    return found


_scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_PLACES = [
    "body",
    "headers",
    "properties",
    "content-type",
    "content-encoding",
    *(f"headers/{name}" for name in good("x")["headers"]),
    *(f"headers/{name}" for name in ("compression", "shadow", "group", "ignore_result")),
    *(f"headers/{name}" for name in ("stamps", "stamped_headers", "group_index", "redelivered")),
    *(f"properties/{name}" for name in good("x")["properties"]),
    "properties/delivery_info/exchange",
    "properties/delivery_info/routing_key",
]


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    envelope = good("fuzzed")
    for place in draw(st.lists(st.sampled_from(_PLACES), min_size=1, max_size=3, unique=True)):
        change = _drop(place) if draw(st.booleans()) else _set(place, draw(_values))
        try:
            change(envelope)
        except (KeyError, TypeError):
            continue  # an earlier change took the place away
    return json.dumps(envelope).encode()


fuzzed: st.SearchStrategy[bytes] = (
    _changed() | st.binary(max_size=60) | _values.map(lambda value: json.dumps(value).encode())
)
