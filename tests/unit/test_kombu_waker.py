"""What makes an event loop come back. Needs no server."""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from atomq.contrib.kombu.waker import Alarm, Waker


@pytest.fixture
def waker() -> Iterator[Waker]:
    socket.setdefaulttimeout(0.2)  # one that would wait for ever fails
    try:
        waker = Waker()
    finally:
        socket.setdefaulttimeout(None)
    yield waker
    waker.close()


def is_readable(waker: Waker) -> bool:
    return bool(select.select([waker], [], [], 0)[0])


def test_a_file_is_readable_for_as_long_as_it_is_set(waker: Waker) -> None:
    for on in (False, True, True, False, False, True, False):
        waker.set(on)
        assert (is_readable(waker), waker.is_set) == (on, on)


class Loop:
    """Its timers, on a clock that is played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Mock]] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def call_later(self, seconds: float, callback: object) -> Mock:
        assert seconds >= 0, "no loop takes a time that is past"
        at, timer = self.now + seconds, Mock(side_effect=callback)
        timer.cancel.side_effect = lambda: self.timers.remove((at, timer))
        self.timers.append((at, timer))
        return timer

    def go(self, to: float) -> None:
        """It is so late now: what is due by then is called, each at its time."""
        while due := [each for each in self.timers if each[0] <= to]:
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = to


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_a_timer_stays_where_earlier_ones_are_set(loop: Loop) -> None:
    rung: list[tuple[float, float]] = []
    alarm = Alarm(loop.call_later, lambda: rung.append((loop.now, alarm.at)))
    assert alarm.at == math.inf
    for at in (160.0, 130.0, 101.0):
        alarm.set(at)
        assert alarm.at == at
    loop.go(200.0)
    assert rung == [(101.0, 130.0), (130.0, 160.0), (160.0, math.inf)], "(when, and when next)"


def test_what_is_past_rings_at_once(loop: Loop) -> None:
    ring = Mock()
    Alarm(loop.call_later, ring).set(99.0)
    loop.go(100.0)
    ring.assert_called_once_with()


def test_one_that_is_cancelled_rings_no_more_until_it_is_set_anew(loop: Loop) -> None:
    ring = Mock()
    alarm = Alarm(loop.call_later, ring)
    alarm.set(130.0)
    alarm.set(120.0)
    alarm.cancel()
    assert (alarm.at, loop.timers) == (math.inf, [])
    alarm.set(140.0)
    loop.go(150.0)
    ring.assert_called_once_with()
