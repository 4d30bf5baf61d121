"""What a process holds, where no server is asked. `faults/test_leases.py` asks one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from atomq import leases
from atomq.backlog import Backlog
from atomq.calls import Call, Claimed, Verdict
from atomq.client import Engine
from atomq.delivery import Delivery
from atomq.flows import Flow, clock
from atomq.keys import QueueKeys
from atomq.leases import LeaseKeeper


@pytest.fixture
def keeper() -> Iterator[LeaseKeeper]:
    """Of an engine that is never connected."""
    with Engine("redis://127.0.0.1:1", max_lease=10) as engine:
        yield leases.keeper(engine)


def held(keeper: LeaseKeeper, count: int = 1) -> list[Delivery]:
    """So many messages that it holds."""
    found = [Delivery("q", f"c-1.0.{i}", 1, 1, b"{}") for i in range(1, count + 1)]
    keeper.hold(Claimed(0, None, (), (), found), found)
    return found


def test_max_lease_counts_once_from_the_begin_of_the_work(
    keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    (message,) = held(keeper)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper.start(message.receipt)
    now[0] += 9
    keeper.start(message.receipt)
    keeper._renewal.held()
    assert keeper.holds(message.receipt)
    now[0] += 2
    keeper._renewal.held()
    assert not keeper.holds(message.receipt)


def test_what_is_given_back_is_not_given_back_again_by_its_consumer(keeper: LeaseKeeper) -> None:
    messages = held(keeper, 2)
    backlog = Backlog(keeper, keeper._engine.keys("q"))
    backlog.fill(messages, clock())
    assert backlog.withdraw() == [message.receipt for message in messages]
    taken = backlog.take()  # the consumer leaves meanwhile
    flow = backlog.give_back()
    assert isinstance(next(flow), Call)
    with pytest.raises(StopIteration):
        flow.send([Verdict.DONE, Verdict.DONE])
    assert taken == messages
    assert all(message.settled for message in taken)


class Waiting:
    """What is to be given back in a while."""

    def __init__(self, queue: QueueKeys, seconds: float) -> None:
        self.queue = queue
        self.looks = 0
        self.over = threading.Event()
        self._until = clock() + seconds

    def waits_until(self) -> float:
        self.looks += 1
        return self._until

    def withdraw(self) -> list[str]:
        self.over.set()
        return []

    def give_back(self) -> Flow[None]:
        yield from ()


def test_what_waits_is_looked_at_when_its_time_comes_and_not_all_the_time(
    keeper: LeaseKeeper,
) -> None:
    held(keeper)
    waits = Waiting(keeper._engine.keys("q"), 0.2)
    keeper.watch(waits, patience=0.0)
    assert waits.over.wait(20)
    assert waits.looks < 10


SUSPENDED = """
import time
asleep, real = 0, time.clock_gettime
time.clock_gettime = lambda which: real(which) + asleep * (which == time.CLOCK_BOOTTIME)

from atomq import leases
from atomq.calls import Claimed
from atomq.client import Engine
from atomq.delivery import Delivery

message = Delivery("q", "c-1.0.1", 1, 1, b"{}")
keeper = leases.keeper(Engine("redis://127.0.0.1:1", lease=60))
keeper.hold(Claimed(0, None, (), (), [message]), [message])
print(keeper.lapsed(message.receipt))
asleep = 61  # no other clock of the process goes on
print(keeper.lapsed(message.receipt))
"""


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_a_lease_grows_old_while_the_machine_is_suspended() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SUSPENDED], capture_output=True, text=True, timeout=30
    )
    assert said.stdout.split() == ["False", "True"], said.stderr
