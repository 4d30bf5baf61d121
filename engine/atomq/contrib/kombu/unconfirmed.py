"""Publishes without an answer: the server may or may not have carried them out.

Kombu and Celery publish such a message once more, as if it were new. It is the same one: it goes
under the call id that it had, to the partition that it went to, so that the server puts it once.
"""

from __future__ import annotations

import json
import time
from typing import Any

from atomq import fork
from atomq.ids import CallId

_MOST = 1000  # messages remembered


class Unconfirmed:
    """The messages of one process whose publish was not answered, with their call ids."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long the server remembers a call id."""
        self._seconds = seconds
        self._ids: dict[str, tuple[CallId, str, float]] = {}
        self._lock = fork.Lock()

    def add(self, queue: str, message: dict[str, Any], call_id: CallId, at: str = "") -> None:
        """This one got no answer from the partition `at`; "": from its queue."""
        with self._lock:
            while len(self._ids) >= _MOST:
                del self._ids[next(iter(self._ids))]
            self._ids[_mark(queue, message)] = (call_id, at or queue, time.monotonic())

    def take(self, queue: str, message: dict[str, Any]) -> tuple[CallId, str] | None:
        """Under which call id, and where, this message was published without an answer."""
        if not self._ids:
            return None
        with self._lock:
            found = self._ids.pop(_mark(queue, message), None)
        if found is None or time.monotonic() - found[2] >= self._seconds:
            return None
        return found[0], found[1]


def _mark(queue: str, message: dict[str, Any]) -> str:
    """What stays the same when Kombu publishes a message again: all but its delivery tag."""
    properties = {k: v for k, v in message["properties"].items() if k != "delivery_tag"}
    return json.dumps([queue, {**message, "properties": properties}], default=str)
