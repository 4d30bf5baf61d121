"""How a body becomes text or bytes and back: JSON, bytes, or a serializer of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from atomq import arguments
from atomq.errors import InvalidArgument, InvalidMessage


@dataclass(frozen=True)
class Serializer:
    """How a body becomes text or bytes and back. `loads` gets what `dumps` returned."""

    content_type: str
    dumps: Callable[[Any], str | bytes]
    loads: Callable[[Any], Any]

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for what cannot be one."""
        arguments.text("content_type", self.content_type, 256, least=1)
        if not (callable(self.dumps) and callable(self.loads)):
            raise InvalidArgument("dumps and loads of a Serializer must be callable")


def quoted_json(text: str) -> str:
    """The same as `quoted`, of what `JSON.dumps` wrote: that is printable ASCII throughout.

    `quoted` looks at each character on its own, which takes a sixth of a `put`.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_decoder = json.JSONDecoder()


def parsed(text: str | bytes) -> Any:
    """What `json.loads` answers, which also looks for blanks at both ends: no writer puts any."""
    if isinstance(text, str):
        try:
            value, end = _decoder.raw_decode(text)
        except ValueError:
            return _decoder.decode(text)  # blanks in front, or an error to be raised
        return value if end == len(text) else _decoder.decode(text)
    return json.loads(text)


def _encoder(comma: str, colon: str) -> Callable[[Any], str]:
    """What `json.dumps` does with these separators and without NaN, by one encoder for all calls.

    `JSONEncoder.encode` makes its C encoder anew each time, which takes as long as a small body.
    Where Python has none, or it takes other arguments, `encode` it is.
    """
    plain = json.JSONEncoder(separators=(comma, colon), allow_nan=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    try:
        chunks = make(None, plain.default, quoted, None, colon, comma, False, False, False)
        if "".join(chunks({"a": [1, None]}, 0)) == f'{{"a"{colon}[1{comma}null]}}':
            return lambda value: "".join(chunks(value, 0))
    except TypeError:  # not callable, or not with these
        pass
    return plain.encode


_compact = _encoder(",", ":")
_spaced = _encoder(", ", ": ")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a bytes queue takes bytes, got {type(value).__name__}")
    return bytes(value)


def strict_json(value: Any, what: str) -> str:
    """A header or a result as JSON. Raises `InvalidMessage` for what JSON cannot say, as NaN."""
    try:
        return _spaced(value)
    except Exception as error:
        raise InvalidMessage(f"{what} not JSON: {arguments.words(error)}") from error


JSON = Serializer("application/json", _compact, parsed)
BYTES = Serializer("application/octet-stream", _bytes, bytes)
