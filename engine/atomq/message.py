"""Messages on the wire: Kombu's JSON envelope, written fast and read when asked for.

    {"body":"...","content-type":"application/json","headers":{},
     "properties":{"delivery_info":{"exchange":"","routing_key":"..."},
                   "timestamp":...,"delivery_tag":"..."}}

A stock Kombu consumer reads what is written here, and the other way round. It needs all of this but
the time, and nothing else: text is UTF-8, the priority is 0, and the message's id is its delivery
tag, unless a message says otherwise.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from urllib.parse import quote

from atomq import arguments
from atomq.errors import InvalidArgument, InvalidMessage
from atomq.serializers import JSON, Serializer, parsed, quoted_json, strict_json

# ── writing ───────────────────────────────────────────────────────────────────────────────────


class Writer:
    """Writes the envelopes of one queue. What is the same in all of them is made once."""

    def __init__(
        self,
        queue: str,
        serializer: Serializer = JSON,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        self.serializer = serializer
        self._dumps = serializer.dumps
        self._quoted = quoted_json if serializer.dumps is JSON.dumps else quoted
        self._check = check
        kind = quoted(serializer.content_type)
        info = f'{{"exchange":"","routing_key":{quoted(queue)}}}'
        self._text = f',"content-type":{kind},"headers":'
        self._binary = f',"content-encoding":"binary"{self._text}'
        self._properties = f',"properties":{{"delivery_info":{info},'
        self._plain = f'{self._text}{{}}{self._properties}"timestamp":'

    def write(
        self,
        body: Any,
        message_id: str,
        priority: int = 0,
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """The envelope as text. Raises `InvalidMessage` if body or headers cannot be serialized.

        And if the `check` refuses the body, which it sees as a consumer will.
        """
        try:
            data = self._dumps(body)
            seen = None if self._check is None else self.serializer.loads(data)
        except Exception as error:
            said = arguments.words(error)
            raise InvalidMessage(f"the body cannot be serialized: {said}") from error
        if self._check is not None:
            self._check(seen)
        tag = quoted(message_id)
        if isinstance(data, str) and not (headers or priority):  # as most are
            text = self._quoted(data)
            return f'{{"body":{text}{self._plain}{int(time.time())},"delivery_tag":{tag}}}}}'
        said = ""
        more = strict_json(dict(headers), "the headers are") if headers else "{}"
        if isinstance(data, str):
            head = f'{{"body":{self._quoted(data)}{self._text}{more}'
        elif not isinstance(data, bytes | bytearray):
            raise InvalidMessage(f"a serializer makes text or bytes, not {type(data).__name__}")
        else:
            said = '"body_encoding":"base64",'
            head = f'{{"body":"{base64.b64encode(data).decode()}"{self._binary}{more}'
        if priority:
            said += f'"priority":{priority},'
        if headers and "id" in headers:  # else that would be taken for the message's
            said += f'"message_id":{tag},'
        return (
            f'{head}{self._properties}{said}"timestamp":{int(time.time())},"delivery_tag":{tag}}}}}'
        )


def tracked_name(message_id: str) -> str:
    """An id as the scripts have it, which decode no JSON: printable ASCII, without blanks.

    It begins with no "!", so that no receipt that is cancelled is taken for an id.
    """
    return quote(message_id, safe="#$&'()*+,-./:;<=>?@[]^_`{|}~")


def tracked(text: str, message_id: str) -> str:
    """The envelope of a message that is tracked: the scripts write down where it is."""
    return f'{{"x-tracked":"{tracked_name(message_id)}",{text[1:]}'


def check_priority(priority: int) -> int:
    """A priority as Kombu's Redis transport has it: 0 to 9, and 0 goes first."""
    return arguments.whole("priority", priority, 0, 9)


# ── reading ───────────────────────────────────────────────────────────────────────────────────

# What a body in base64 may be when it is bytes again; None: bytes it is. The producer names it, so
# it is one of those that Kombu writes, and not any that Python knows: some take the square of it.
CODECS = {
    "binary": None,
    "ascii-8bit": None,
    "us-ascii": None,
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
}


class Envelope:
    """A message as it lies in the server, decoded when the first of its parts is asked for."""

    __slots__ = ("_decoded", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._decoded: dict[str, Any] | None = None

    @property
    def decoded(self) -> dict[str, Any]:
        """The whole envelope. Raises `InvalidMessage` if it is not a JSON object."""
        if self._decoded is None:
            try:
                decoded = parsed(self.raw.decode())
            except (ValueError, RecursionError) as error:
                raise InvalidMessage(f"the message is not JSON: {error}") from error
            if not isinstance(decoded, dict):
                raise InvalidMessage(
                    f"the message is not a JSON object but {type(decoded).__name__}"
                )
            self._decoded = decoded
        return self._decoded

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers; empty if there are none."""
        headers = self.decoded.get("headers")
        return headers if isinstance(headers, dict) else {}

    @property
    def properties(self) -> dict[str, Any]:
        """Its properties; empty if there are none."""
        properties = self.decoded.get("properties")
        return properties if isinstance(properties, dict) else {}

    @property
    def id(self) -> str:
        """Its message id; Celery's task id; or else the delivery tag its producer gave it.

        Raises `InvalidMessage` if that is neither text, as UTF-8 has it, nor a number.
        """
        properties = self.properties
        named = properties.get("message_id") or self.headers.get("id")
        named = named or properties.get("delivery_tag") or ""
        if type(named) is str and named.isascii() and len(named) <= arguments.LARGEST:
            return named  # as nearly always
        if not isinstance(named, str | int | float):
            raise InvalidMessage(f"the message's id is no text but {type(named).__name__}")
        try:
            return arguments.text("id", str(named), arguments.LARGEST)
        except InvalidArgument as error:
            raise InvalidMessage(f"the message's {error}") from error

    @property
    def expires_ms(self) -> int | None:
        """When it expires, by the server's clock, in ms since 1970; None: never."""
        expires = self.decoded.get("x-expires")
        return expires if isinstance(expires, int) else None

    @property
    def put_s(self) -> float | None:
        """When it was put, by its producer's clock, in s since 1970; None: it does not say."""
        try:
            put = float(self.properties["timestamp"])
        except (InvalidMessage, KeyError, TypeError, ValueError, OverflowError):
            return None
        return put if math.isfinite(put) else None

    @property
    def data(self) -> str | bytes:
        """The body, still serialized. Raises `InvalidMessage` if it cannot be decoded."""
        body = self.decoded.get("body", "")
        encoding = self.properties.get("body_encoding")
        if encoding == "base64":
            try:
                data = base64.b64decode(body, validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise InvalidMessage(f"the body is not base64: {error}") from error
            named = self.decoded.get("content-encoding") or "binary"
            codec = CODECS.get(named.lower(), "") if isinstance(named, str) else ""
            if codec is None:
                return data
            if not codec:
                raise InvalidMessage(f"the content-encoding {arguments.shown(named)} is not known")
            try:
                return data.decode(codec)
            except ValueError as error:
                raise InvalidMessage(f"the body's text cannot be decoded: {error}") from error
        if encoding is not None:
            raise InvalidMessage(f"the body encoding {arguments.shown(encoding)} is not known")
        if not isinstance(body, str):
            raise InvalidMessage(f"the body is not text but {type(body).__name__}")
        return body

    def body(self, serializer: Serializer = JSON) -> Any:
        """The body as the producer gave it. Raises `InvalidMessage` if it cannot be decoded."""
        data = self.data
        kind = self.decoded.get("content-type")
        if kind not in (serializer.content_type, None):
            raise InvalidMessage(
                f"the body is {arguments.shown(kind)}, this queue reads {serializer.content_type!r}"
            )
        try:
            return serializer.loads(data)
        except Exception as error:
            said = arguments.words(error)
            raise InvalidMessage(f"the body cannot be deserialized: {said}") from error
