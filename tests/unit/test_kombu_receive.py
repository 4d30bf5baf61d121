"""How long a connection of Kombu's waits for something to hand over. Needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from redis import exceptions as server

from atomq.contrib.kombu import poller as module
from atomq.contrib.kombu.waker import Waker
from tests.scripted import Stage, claimed


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    found.channel.basic_qos(0, 10, False)
    yield found
    found.close()


class Silent:
    """A server from which nothing comes, but at the end of the waits that are told."""

    def __init__(self, *comes: bool) -> None:
        self.now = 100.0
        self.next_at = inf
        self.is_open = True
        self.waited: list[float] = []
        self._comes = list(comes)

    def can_read(self, seconds: float) -> bool:
        self.sleep(seconds)
        return self._comes.pop(0) if self._comes else False

    def read_on(self) -> bool:
        return True

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        assert len(self.waited) < 20
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def silent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Silent:
    found = Silent()
    monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(stage.poller, "_intake", found)
    stage.poller.pump = lambda: None
    return found


@pytest.mark.parametrize(
    ("timeout", "waited"), [(0.5, [0.5]), (2.5, [1.0, 1.0, 0.5]), (0.0, [0.0])]
)
def test_it_waits_as_long_as_it_may_and_a_second_at_most_at_once(
    stage: Stage, silent: Silent, timeout: float, waited: list[float]
) -> None:
    assert stage.poller.receive(timeout) is False
    assert silent.waited == waited


def test_without_a_timeout_it_waits_until_something_comes(stage: Stage, silent: Silent) -> None:
    silent._comes = [False, True]
    assert stage.poller.receive(None) is True
    assert silent.waited == [1.0, 1.0]


@pytest.mark.parametrize(("ahead", "waited"), [(0.25, 0.25), (-5.0, 0.0)])
def test_it_waits_no_longer_than_until_there_is_something_to_do(
    stage: Stage, silent: Silent, ahead: float, waited: float
) -> None:
    silent.next_at = silent.now + ahead
    silent._comes = [True]
    assert stage.poller.receive(5.0) is True
    assert silent.waited == [waited]


def test_where_nothing_can_be_read_it_rests(stage: Stage, silent: Silent) -> None:
    silent.is_open = False
    assert stage.poller.receive(0.25) is False
    assert silent.waited == pytest.approx([0.1, 0.1, 0.05])


@pytest.mark.parametrize(
    ("handed", "timeout", "waited"),
    [(99.5, None, 0.05), (99.5, 0.02, 0.02), (100.0, None, 0.001), (50.0, None, 0.1)],
)
def test_a_worker_that_acks_between_drains_is_let_go_sooner(
    stage: Stage,
    silent: Silent,
    monkeypatch: pytest.MonkeyPatch,
    handed: float,
    timeout: float | None,
    waited: float,
) -> None:
    monkeypatch.setattr(module, "acks_between_drains", lambda: True)
    stage.poller._handed_at = handed
    assert stage.poller.receive(timeout) is False
    assert silent.waited[0] == pytest.approx(waited)


def test_the_waker_waits_for_nothing(stage: Stage, silent: Silent) -> None:
    stage.poller.on_waker()
    assert silent.waited == [0]


def test_one_that_is_drained_by_hand_is_no_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(module, "runs_in_delivery", lambda *, in_loop: asked.append(in_loop))
    stage.consume()
    stage.poller.pump()
    stage.line.replies.append(claimed("a"))
    assert stage.poller.receive(0)
    assert asked == [False]


@pytest.mark.parametrize("works", [True, False])
def test_while_a_task_runs_in_there_the_connection_hears_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    happened: list[Any] = []
    monkeypatch.setattr(module, "runs_in_delivery", lambda *, in_loop: works or in_loop)
    for name in ("begin_task", "end_task"):
        monkeypatch.setattr(stage.poller._intake, name, lambda name=name: happened.append(name))
    stage.consume(callback=lambda _: happened.append("task"))
    stage.poller.pump()
    stage.line.replies.append(claimed("a"))
    assert stage.poller.receive(0)
    assert happened == (["begin_task", "task", "end_task"] if works else ["task"])


@pytest.mark.parametrize(("lasts", "handed"), [(0.0, 3), (0.006, 1)])
def test_in_one_turn_of_a_loop_as_many_are_handed_over_as_time_allows(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, lasts: float, handed: int
) -> None:
    now, in_loops, waker = [100.0], list[bool](), Waker()

    def callback(message: Any) -> None:
        stage.got.append(message)
        now[0] += lasts

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "runs_in_delivery", lambda *, in_loop: in_loops.append(in_loop))
    stage.consume(callback=callback)
    stage.poller.watch(lambda _: None, waker, Mock())
    stage.poller.pump()
    stage.give(claimed("a", "b", "c"))
    assert (len(stage.got), waker.is_set) == (handed, handed < 3)
    assert set(in_loops) == {True}
    waker.close()


@pytest.mark.parametrize("lost", [True, False])
def test_a_worker_that_stops_gives_back_what_it_has_not_begun(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    gave: list[int] = []
    stage.consume()
    monkeypatch.setattr(stage.channel.qos, "give_back_unbegun", lambda: gave.append(1))
    stage.poller.cancelled(stage.channel, ["q"])
    assert gave == [], "it does not stop"
    assert stage.poller._intake.claims.hot == set(), "nothing is claimed for it any more"
    stage.transport.lost = lost
    monkeypatch.setattr(module, "stopping", lambda: True)
    stage.poller.cancelled(stage.channel, ["q"])
    assert gave == [1] * (not lost)


@pytest.mark.parametrize("closed", [True, False])
def test_trouble_of_a_consumer_that_goes_is_raised_unless_its_channel_closes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    def leave(_: str) -> None:
        raise server.ConnectionError("gone")

    stage.consume()
    monkeypatch.setattr(stage.poller._intake, "leave", leave)
    monkeypatch.setattr(stage.channel, "closed", closed)
    if closed:
        stage.poller.cancelled(stage.channel, ["q"])
    else:
        with pytest.raises(server.ConnectionError):
            stage.poller.cancelled(stage.channel, ["q"])
