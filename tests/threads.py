"""Threads of tests, which end with the block that began them, also when it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def running(
    *works: Callable[[], object], stop: threading.Event | None = None, seconds: float = 20.0
) -> Iterator[None]:
    """Do these meanwhile, in a thread each; at the end of the block wait for them to end.

    `stop` is set first. A thread that does not end within so many seconds fails the test, and so
    does what one raises; being a daemon, it keeps no run from ending.
    """
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        if stop is not None:
            stop.set()
        end = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    left = [thread for thread in threads if thread.is_alive()]
    assert not left, f"threads that do not end: {left}"
    if errors:
        raise errors[0]


def rests_noted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that this thread rests from now on, without a rest.

    Other threads rest as ever: an engine of a test before may try for seconds to leave.
    """
    found: list[float] = []
    here, rest = threading.get_ident(), time.sleep

    def sleep(seconds: float) -> None:
        if threading.get_ident() == here:
            found.append(seconds)
        else:
            rest(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return found
