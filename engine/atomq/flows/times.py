"""How long may still be waited, and how old a lease is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from atomq import arguments
from atomq.arguments import Seconds

# Seconds by which the age of a lease is measured: they go on while the machine is suspended.
clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)


class Stop(Protocol):
    """What tells a consumer to stop, once it is set: any of the standard library's events."""

    def is_set(self) -> bool:
        """Whether it is set."""
        ...


def deadline_of(timeout: Seconds | None, since: float | None = None) -> float | None:
    """When the time is up (monotonic), by default from now on; None: never.

    Raises `InvalidArgument`.
    """
    seconds = arguments.timeout(timeout)
    if seconds is None:
        return None
    return (time.monotonic() if since is None else since) + seconds


def is_set(stop: Stop | None) -> bool:
    """Whether the consumer is to stop."""
    return stop is not None and stop.is_set()


def seconds_left(deadline: float | None, stop: Stop | None) -> float | None:
    """Seconds that may still be waited for a message; None: any number."""
    if is_set(stop):
        return 0.0
    return None if deadline is None else deadline - time.monotonic()
