"""Publishes without an answer: the server may or may not have carried them out.

Kombu and Celery publish such a message once more, as if it were new. It is the same one: it goes
under the call id that it had, so that the server puts it once.
"""

from __future__ import annotations

import json
import time
from typing import Any

from atomq import fork
from atomq.message import CallId

_MOST = 1000  # messages remembered


class Unconfirmed:
    """The messages of one process whose publish was not answered, with their call ids."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long the server remembers a call id."""
        self._seconds = seconds
        self._ids: dict[str, tuple[CallId, float]] = {}
        self._lock = fork.Lock()

    def add(self, queue: str, message: dict[str, Any], call_id: CallId) -> None:
        """This one got no answer."""
        with self._lock:
            while len(self._ids) >= _MOST:
                del self._ids[next(iter(self._ids))]
            self._ids[_mark(queue, message)] = (call_id, time.monotonic())

    def take(self, queue: str, message: dict[str, Any]) -> CallId | None:
        """The call id that this message had when it was published without an answer."""
        if not self._ids:
            return None
        with self._lock:
            call_id, since = self._ids.pop(_mark(queue, message), (None, 0.0))
        return call_id if time.monotonic() - since < self._seconds else None


def _mark(queue: str, message: dict[str, Any]) -> str:
    """What stays the same when Kombu publishes a message again: all but its delivery tag."""
    properties = {k: v for k, v in message["properties"].items() if k != "delivery_tag"}
    return json.dumps([queue, {**message, "properties": properties}], default=str)
