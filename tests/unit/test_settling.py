"""When the thread of the leases sends acks, and sends them once more. No server is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from atomq import leases
from atomq.calls import Verdict
from atomq.client import Engine
from atomq.errors import AtomqError, PermissionDenied, ServerUnavailable
from atomq.flows import Acks
from atomq.settling import ACK_DELAY, RETRY, Settling
from tests.played import Play

PATIENCE = 1.0  # seconds, of a lease of six


class Stage:
    """What waits to be sent, on a clock that is played. No thread runs."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.sent: list[tuple[list[str], bool]] = []
        self.trouble: AtomqError | None = None
        self.jobs: dict[Any, Callable[[], None]] = {}
        keeper = leases.keeper(engine)
        self.settling: Settling = keeper._settling
        self.acks: Acks = keeper.acks
        self.engine: Any = self.settling._engine
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(keeper._thread, "rouse", lambda: None)
        monkeypatch.setattr(self.engine, "run", self._run)

    def _run(self, flow: Any) -> None:
        play = Play(flow)
        while not play.over:
            call = play.effect
            self.sent.append((call.args, call.repeated))
            play.go(self.trouble or [Verdict.DONE] * len(call.args))

    def take(self, *names: str) -> None:
        """Claims take an ack of each of these queues along, named as its queue is."""
        for name in names:
            self.acks.add(name, name)
            self.acks.take(name)
        self.turn(100.01)
        assert self.turn(100.02) == 100 + self.settling._patience

    def turn(self, at: float) -> float:
        """Have the thread take a turn; when the next one is due."""
        self.now = at
        self.settling.turn(at)
        return self.settling.due()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with Engine("redis://127.0.0.1:1", lease=6 * PATIENCE) as engine:
        yield Stage(engine, monkeypatch)


def test_acks_that_no_claim_takes_are_sent_after_a_moment(stage: Stage) -> None:
    stage.acks.add("q", "a")
    assert stage.settling.due() == 100 + ACK_DELAY
    assert stage.turn(100.001) == pytest.approx(100 + ACK_DELAY)
    assert stage.sent == []
    stage.turn(100.1)
    assert stage.sent == [(["a"], False)]
    assert stage.turn(101.2) == inf


def test_acks_whose_claim_is_not_answered_are_sent_once_more_by_half_a_renewal(
    stage: Stage,
) -> None:
    stage.acks.add("q", "a")
    stage.acks.take("q")
    stage.acks.add("p", "b")
    answered = stage.acks.take("p")
    stage.turn(100.01)
    stage.acks.answered("p", answered, [])
    assert stage.turn(100.5) == 100 + PATIENCE
    assert stage.sent == []
    assert stage.turn(100 + PATIENCE) == inf
    assert stage.sent == [(["a"], True)]


def test_what_is_taken_right_after_a_turn_is_seen_as_soon(stage: Stage) -> None:
    stage.acks.add("q", "a")
    stage.turn(100.002)
    stage.now = 100.003
    stage.acks.take("q")
    stage.turn(100.006)
    assert stage.turn(100.1) == pytest.approx(100.003 + PATIENCE)


@pytest.mark.parametrize("trouble", [ServerUnavailable("gone"), PermissionDenied("no")])
def test_what_cannot_be_sent_once_more_is_tried_again(stage: Stage, trouble: AtomqError) -> None:
    stage.take("q")
    stage.trouble = trouble
    assert stage.turn(101.0) == pytest.approx(101.0 + RETRY)
    stage.trouble = None
    assert stage.turn(101.3) == inf
    assert stage.sent == [(["q"], True)] * 2


def test_of_a_short_lease_it_is_tried_again_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine("redis://127.0.0.1:1", lease=0.6) as engine:
        stage = Stage(engine, monkeypatch)
        stage.take("q")
        stage.trouble = ServerUnavailable("gone")
        assert stage.turn(101.0) == pytest.approx(101.1)
        stage.trouble = None
        stage.turn(101.1)


def test_of_a_cluster_the_thread_of_the_node_does_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[tuple[Any, Callable[[], None]]] = []
    monkeypatch.setattr(stage.engine, "slots", object())
    monkeypatch.setattr(stage.engine, "place", lambda name: (f"node of {name}", 1))
    monkeypatch.setattr(
        stage.settling._nodes, "do", lambda place, _, job: jobs.append((place, job))
    )
    stage.take("q", "p")
    assert stage.turn(101.0) == pytest.approx(101.0 + RETRY), "until then they are under way"
    sends, jobs[:] = jobs[:], []
    for _, job in sends:
        job()
    assert [place for place, _ in sends] == [("node of q", 1), ("node of p", 1)]
    assert stage.sent == [(["q"], True), (["p"], True)]
    assert stage.turn(101.0 + RETRY) == inf
    monkeypatch.setattr(stage.engine, "slots", None)


def test_nothing_is_sent_once_it_is_stopped(stage: Stage) -> None:
    stage.take("q")
    stage.settling.stop()
    assert stage.settling.due() == inf
