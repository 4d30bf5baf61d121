"""What an adapter is. This file runs in the environment of each peer: the standard library only."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Awaitable
from typing import Any, ClassVar

BATCH = 100
"""Messages a call of `publish_many`."""
DAY = 86_400.0
"""Seconds that `delay` puts a message off."""

RECORD = struct.Struct("dd")
_handled = int(os.environ.get("BENCH_HANDLED", "-1"))


class Cannot(Exception):
    """The peer has no such thing; the text says why, and stands in the table."""


def handled(at: float) -> None:
    """Note that a message published `at` reached its handler: what every handler here does."""
    os.write(_handled, RECORD.pack(at, time.monotonic()))


class Peer:
    """One library: how it publishes and how it consumes.

    Each message carries `time.monotonic()` of its publishing and a text, `pad`. All methods but
    `consume` may be coroutines; all that one process asks for runs in one event loop.
    """

    most: ClassVar[int] = 64
    """So many consumers wait in one process at most; more are more processes."""

    def __init__(self, url: str) -> None:
        """`url` is `redis://127.0.0.1:PORT/0`."""
        self.url = url

    def open(self) -> Awaitable[None] | None:
        """Connect, before anything is measured."""
        return None

    def publish(self, pad: str, count: int) -> Awaitable[None] | None:
        """Publish so many messages one by one, each answered before the next."""
        raise NotImplementedError

    def publish_many(self, pad: str, count: int) -> Awaitable[None] | None:
        """Publish so many messages, `BATCH` a call."""
        raise Cannot("no call that publishes several")

    def delay(self, pad: str) -> Awaitable[None] | None:
        """Publish one message that is due in a `DAY`."""
        raise Cannot("no delay")

    def consume(self, number: int) -> Any:
        """Run `number` consumers (at most `most`) until the process is killed."""
        raise NotImplementedError
