"""JSON, as Python's own module writes and reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atomq.serializers import JSON, _encoder, quoted_json

BODIES = [None, True, 0, -1.5, "", "ü\u2028\ud83d", [], {}, {"a": [1, {"b": ()}]}]


@pytest.mark.parametrize("body", [*BODIES, {1: 2, None: 3, False: 4}, [[[[]]]]], ids=repr)
def test_a_body_is_what_json_makes_of_it(body: Any) -> None:
    assert JSON.dumps(body) == json.dumps(body, separators=(",", ":"))


@pytest.mark.parametrize(
    "text", ["1", " [1] ", "{}\n", '\t"x"', b"[2]", "[1] x", "", " ", "{", "nul"]
)
def test_a_body_is_read_as_json_reads_it(text: str | bytes) -> None:
    def told(read: Any) -> Any:
        try:
            return read(text)
        except ValueError as error:
            return str(error)

    assert told(JSON.loads) == told(json.loads)


def test_where_json_has_no_encoder_in_c_its_own_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert _encoder(",", ":")({"a": [1, 2]}) == '{"a":[1,2]}'


@pytest.mark.parametrize("body", [*BODIES, "".join(map(chr, range(0x180))), '\\"\\\\'], ids=ascii)
def test_json_within_json_is_what_json_makes_of_it(body: Any) -> None:
    text = str(JSON.dumps(body))
    assert quoted_json(text) == json.dumps(text)
