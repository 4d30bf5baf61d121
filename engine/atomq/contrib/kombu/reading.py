"""What lies in a message, as Kombu reads it, by what Kombu makes anew for each message."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Collection
from json import JSONDecoder
from typing import Any

from kombu.serialization import registry
from kombu.utils import json

from atomq.serializers import JSON

_typed = JSONDecoder(object_hook=json.object_hook)


def from_json(text: str) -> Any:
    """What `kombu.utils.json.loads` answers. That makes a decoder each time, and a call a dict."""
    # A typed value has the key "__type__", or the same in escapes: all of ASCII begin with \u00.
    may_be_typed = '"__type__"' in text or "\\u00" in text
    return _typed.decode(text) if may_be_typed else JSON.loads(text)


def body_in_json(data: Any, kind: Any, encoding: Any, accept: Collection[str] | None) -> Any:
    """A body as `kombu.serialization.loads` answers it; None where it is for that to answer.

    It is where the consumer accepts no JSON, the body is none, or a program registered another
    reader of JSON; and where the encoding is not UTF-8, which may be one that Kombu refuses.
    """
    if kind != "application/json" or accept is None or kind not in accept or not data:
        return None
    if encoding != "utf-8" or registry._decoders.get(kind) is not json.loads:
        return None
    try:
        return from_json(data if isinstance(data, str) else data.decode())
    except Exception:  # noqa: BLE001 - Kombu meets it too, and gives it a name of its own
        return None


class Base64:
    """Kombu's codec of that name, in one call each way."""

    def encode(self, data: str | bytes) -> str:
        """As text."""
        return b2a_base64(data.encode() if isinstance(data, str) else data, newline=False).decode()

    def decode(self, text: str | bytes) -> bytes:
        """As bytes. Raises `binascii.Error`, as Kombu's does."""
        return a2b_base64(text.encode() if isinstance(text, str) else text)
