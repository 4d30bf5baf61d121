"""Waiting for the result of a message, and for what its holder says on the way."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from math import inf

from atomq import calls
from atomq.arguments import Seconds
from atomq.errors import (
    ServerUnavailable,
)
from atomq.flows.base import Flow, Get, Listen, Sleep, ask
from atomq.flows.times import deadline_of
from atomq.keys import QueueKeys

log = logging.getLogger("atomq.flows")
FOLLOW = 0.5  # seconds between two looks at how far a holder is


def follow(
    keys: QueueKeys, message_id: str, on_progress: Callable[[calls.Progress], object]
) -> Callable[[], Flow[None]]:
    """A flow that looks how far the holder of a message is, and says so when it said something."""
    last: calls.Progress | None = None

    def look() -> Flow[None]:
        nonlocal last
        found = yield from ask(calls.find(keys, message_id, limit=0))
        if found.progress is not None and found.progress != last:
            last = found.progress
            on_progress(found.progress)

    return look


def await_result(
    key: str, timeout: Seconds | None, look: Callable[[], Flow[None]] | None = None
) -> Flow[bytes | None]:
    """The result stored under `key`, or None after `timeout` seconds (None: wait for ever).

    With `look`, that is run twice a second meanwhile.

    Listens before it looks, so nothing falls between, and looks again every 5 s. Whenever it heard
    nothing its connection may be another by now, so it listens anew before it relies on a look. A
    server that is away at the beginning is tried as for calls; one that served once is waited for.
    """
    deadline = deadline_of(timeout)
    patience = inf if deadline is None else max(0.0, deadline - time.monotonic())
    found = yield from ask(Get(key, patience))
    seconds, pause = 0.0, 5.0 if look is None else FOLLOW
    while found is None:
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return None
        found = yield from ask(Listen(key, min(seconds, left)))
        seconds = 0.0 if seconds and look is None else pause
        if found is None:
            try:
                found = yield from ask(Get(key))
                if found is None and look is not None:
                    yield from look()
            except ServerUnavailable as error:
                log.info("waiting for the server: %s", error)
                seconds = 0.0
                yield from ask(Sleep(random.uniform(0.05, 0.5)))
    return found
