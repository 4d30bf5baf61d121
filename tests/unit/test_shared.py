"""What several callers share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from weakref import WeakSet

import pytest

from atomq.shared import members
from tests.threads import running


class One:
    """Takes weak references."""


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("short_turns")
def test_members_are_listed_while_a_thread_adds_some() -> None:
    """Catches a loop over the set: "Set changed size during iteration"."""
    kept, stop = [One() for _ in range(100)], threading.Event()
    weak = WeakSet(kept)

    def add() -> None:
        while not stop.is_set():
            weak.add(One())  # and at once it is gone

    with running(add, stop=stop):
        for _ in range(3000):
            assert set(kept) <= set(members(weak))


def test_members_are_those_alive() -> None:
    one, other = One(), One()
    weak = WeakSet([one, other])
    del other
    assert members(weak) == [one]
