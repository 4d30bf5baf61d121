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
import itertools
import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from urllib.parse import quote

from atomq import arguments, fork
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


_decoder = json.JSONDecoder()


def _parsed(text: str | bytes) -> Any:
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


JSON = Serializer("application/json", _compact, _parsed)
BYTES = Serializer("application/octet-stream", _bytes, bytes)


# ── ids ───────────────────────────────────────────────────────────────────────────────────────


class Ids:
    """Unique names without a system call each: one of its own (new after a fork), a counter.

    Its own begins with the name of the process: see `fork.process`.
    """

    def __init__(self) -> None:
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """Begin anew with another name, of letters and digits."""
        self.prefix = fork.unique()
        self._count = itertools.count(1)

    def next(self) -> str:
        """`<prefix>-<counter>`."""
        return f"{self.prefix}-{next(self._count)}"


message_ids = Ids()


class CallId:
    """One publish call: its producer, and its number among the calls of that.

    A producer has one call under way at a time. So the server, which remembers the number of a
    producer's last call, knows of each call whether it was carried out, and be it a late twin of
    one that was answered long ago.
    """

    __slots__ = ("_idle", "number", "producer")

    def __init__(self, producer: str, number: int = 1, idle: deque[CallId] | None = None) -> None:
        self.producer, self.number = producer, number
        self._idle = idle

    def answered(self) -> None:
        """The server has carried it out: its producer may go on to the next call, once."""
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.append(CallId(self.producer, self.number + 1, idle))

    def __repr__(self) -> str:
        return f"CallId({self.producer!r}, {self.number})"


class Producers:
    """The producers of an engine: as many as it has calls under way at once.

    One whose call was given up without an answer is not used again, since that call may still be
    carried out; so nothing has to be noted of it. Threads, tasks and finalizers may ask at any
    moment: there is no lock. A child process has producers of its own.
    """

    _MOST_IDLE = 256

    def __init__(self) -> None:
        self._names = Ids()
        self.forked()
        fork.renew(self)

    def forked(self) -> None:
        """Begin anew: those that idle here idle in the parent too."""
        self._idle: deque[CallId] = deque(maxlen=self._MOST_IDLE)

    def next(self) -> CallId:
        """The id of a call that is about to be made."""
        idle = self._idle
        try:
            return idle.pop()
        except IndexError:
            return CallId(self._names.next(), 1, idle)


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
        *,
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
            return f'{{"body":{quoted(data)}{self._plain}{time.time():.0f},"delivery_tag":{tag}}}}}'
        said = ""
        more = strict_json(dict(headers), "the headers are") if headers else "{}"
        if isinstance(data, str):
            head = f'{{"body":{quoted(data)}{self._text}{more}'
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
            f'{head}{self._properties}{said}"timestamp":{time.time():.0f},"delivery_tag":{tag}}}}}'
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
                decoded = _parsed(self.raw.decode())
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
        named = self.properties.get("message_id") or self.headers.get("id")
        named = named or self.properties.get("delivery_tag") or ""
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


# ── claimed ───────────────────────────────────────────────────────────────────────────────────


_TRACKED = re.compile(
    rb'\{(?:"x-(?:deliveries|expires|spared)": ?\d{1,15}, ?){0,3}"x-tracked": ?"([^"\\]+)"'
)
_SPARED = re.compile(rb'\{(?:"x-deliveries":\d+,)?(?:"x-expires":\d+,)?"x-spared":(\d{1,8}),')


class Delivery:
    """One claimed message: what the server answered, and the receipt that acks it."""

    __slots__ = (
        "__weakref__",
        "cancelled",
        "deliveries",
        "envelope",
        "lost",
        "queue",
        "receipt",
        "settled",
        "step",
        "word",
    )

    def __init__(self, queue: str, receipt: str, deliveries: int, step: int, raw: bytes) -> None:
        self.queue = queue
        self.receipt = receipt
        self.deliveries = deliveries
        self.step = step
        self.envelope = Envelope(raw)
        self.settled = self.lost = self.cancelled = False
        self.word = receipt
        """What acks it: its receipt, and if it is tracked a blank and the name of its record."""
        if raw[2:3] == b"x" and (found := _TRACKED.match(raw)):
            self.word = f"{receipt} {found[1].decode()}"

    @property
    def charged(self) -> int:
        """Its deliveries, this one included, but for those that were spared.

        Those ended without a word while their consumer held other messages, which says nothing of
        this one. What is left is what counts towards `max_deliveries`.
        """
        return self.deliveries - self.spared

    @property
    def spared(self) -> int:
        """How many earlier deliveries were spared; from two on it is handed out alone."""
        found = _SPARED.match(self.envelope.raw) if self.deliveries > 1 else None
        return min(int(found[1]), self.deliveries - 1) if found else 0

    def __repr__(self) -> str:
        return f"Delivery({self.queue!r}, {self.receipt!r}, deliveries={self.deliveries})"
