"""When the thread of the leases sends acks, and sends them once more. No server is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import leases
from atomq.calls import Verdict
from atomq.client import Engine
from atomq.errors import AtomqError, PermissionDenied, ServerUnavailable
from atomq.flows import Acks, Flow
from atomq.settling import ACK_DELAY, RETRY, Later, Settling
from atomq.translating import unavailable
from tests.played import Play

PATIENCE = 1.0  # seconds, of a lease of six


class Stage:
    """What waits to be sent, on a clock that is played. No thread runs."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.sent: list[tuple[list[str], bool]] = []
        self.done: list[str] = []
        self.trouble: AtomqError | None = None
        self.troubles: dict[str, AtomqError] = {}
        """Those of one queue."""
        self.roused = 0
        self.dropped: list[str] = []
        keeper = leases.keeper(engine)
        self.settling: Settling = keeper._settling
        self.acks: Acks = keeper.acks
        self.engine: Any = self.settling._engine
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(keeper._thread, "rouse", self._rouse)
        monkeypatch.setattr(self.settling, "_drop", self.dropped.extend)
        monkeypatch.setattr(self.engine, "run", self._run)

    def _run(self, flow: Any) -> None:
        play = Play(flow)
        while not play.over:
            call = play.effect
            self.sent.append((call.args, call.repeated))
            trouble = self.trouble or self.troubles.get(call.queue.name)
            play.go(trouble or [Verdict.DONE] * len(call.args))

    def _rouse(self) -> None:
        self.roused += 1

    def flow(self, what: str) -> Callable[[], Flow[None]]:
        """A flow that settles something."""

        def flow() -> Flow[None]:
            self.done.append(what)
            if self.trouble is not None:
                raise self.trouble
            yield from ()

        return flow

    def add(self, at: float, receipt: str, queue: str = "q") -> None:
        """One more ack comes then."""
        self.now = at
        self.acks.add(queue, receipt)

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
        stage = Stage(engine, monkeypatch)
        yield stage
        stage.trouble = None


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


def test_only_what_is_not_answered_for_so_long_is_sent_once_more(stage: Stage) -> None:
    stage.take("q")
    stage.add(100.5, "b", "p")
    stage.acks.take("p")
    stage.turn(100.6)
    assert stage.turn(101.0) == pytest.approx(100.5 + PATIENCE)
    assert stage.sent == [(["q"], True)]
    stage.turn(101.5)
    assert stage.sent == [(["q"], True), (["b"], True)]


# ── when ──────────────────────────────────────────────────────────────────────────────────────


def test_while_acks_come_the_thread_looks_by_itself_and_is_not_roused(stage: Stage) -> None:
    stage.add(100.0, "a")
    assert stage.roused == 1
    assert stage.turn(100.0 + ACK_DELAY) == pytest.approx(100.010)
    assert stage.sent == [(["a"], False)]
    stage.add(100.007, "b")
    assert stage.turn(100.010) == pytest.approx(100.007 + ACK_DELAY), "a claim may take it along"
    assert stage.turn(100.012) == inf
    assert stage.sent == [(["a"], False), (["b"], False)]
    assert stage.roused == 1
    stage.add(100.020, "c")
    assert (stage.roused, stage.settling.due()) == (2, 100.020 + ACK_DELAY)
    stage.acks.take("q")


def test_the_thread_rests_for_a_millisecond_at_least(stage: Stage) -> None:
    stage.add(100.0, "a")
    stage.turn(100.0 + ACK_DELAY)
    stage.add(100.0055, "b")
    assert stage.turn(100.010) == pytest.approx(100.011)
    assert stage.turn(100.0111) == inf
    assert stage.sent == [(["a"], False), (["b"], False)]


def test_acks_are_sent_now_where_that_is_asked_for(stage: Stage) -> None:
    stage.add(100.0, "a")
    stage.settling.send(0.0)
    assert stage.sent == [(["a"], False)]


def test_acks_that_could_not_be_sent_now_are_sent_once_the_server_is_back(stage: Stage) -> None:
    """Also behind the end of a consumer: what is done would be started again."""
    stage.settling.stop()
    stage.acks.add("q", "a")
    stage.settling.stop()
    stage.settling._thread.closing = True
    stage.trouble = ServerUnavailable("gone")
    roused = stage.roused
    stage.settling.send(0.0)
    assert (stage.roused, stage.settling.due()) == (roused + 1, 100.0 + RETRY)
    stage.trouble = None
    stage.turn(100.0 + RETRY)
    assert stage.sent == [(["a"], False), (["a"], False)]


def test_acks_wait_no_longer_where_something_else_is_to_be_sent(stage: Stage) -> None:
    stage.settling.settle_now(Later("q", ["x"], stage.flow("x")), 100.0)
    stage.add(100.0, "a")
    stage.turn(100.0)
    assert (stage.sent, stage.done) == ([(["a"], False)], ["x"])


# ── what cannot be sent ───────────────────────────────────────────────────────────────────────


def test_the_trouble_of_one_queue_is_not_that_of_others(stage: Stage) -> None:
    stage.troubles["q"] = PermissionDenied("no")
    stage.add(100.0, "a")
    stage.add(100.0, "b", "p")
    assert stage.turn(100.1) == pytest.approx(100.1 + RETRY)
    assert stage.sent == [(["a"], False), (["b"], False)]
    stage.troubles.clear()
    stage.turn(100.41)
    assert stage.sent[2:] == [(["a"], False)]


def test_a_server_that_takes_nothing_is_asked_for_one_queue(stage: Stage) -> None:
    stage.trouble = unavailable("NOREPLICAS", unsent=True)
    for queue in ("q", "p", "o"):
        stage.add(100.0, queue, queue)
    assert stage.turn(100.1) == pytest.approx(100.1 + RETRY)
    assert stage.sent == [(["q"], False)]
    stage.trouble = None
    stage.turn(100.41)
    assert sorted(stage.sent[1:]) == [(["o"], False), (["p"], False), (["q"], False)]


def test_what_is_settled_is_held_no_more(stage: Stage) -> None:
    assert stage.settling.settle("q", ["a", "b"], stage.flow("q"))
    assert (stage.done, stage.dropped, stage.settling.due()) == (["q"], ["a", "b"], inf)


def test_what_meets_an_outage_is_settled_by_the_thread_as_soon_as_the_server_is_back(
    stage: Stage,
) -> None:
    stage.trouble = ServerUnavailable("gone")
    assert not stage.settling.settle("q", ["a"], stage.flow("q"))
    assert not stage.settling.settle("p", ["b"], stage.flow("p"))
    assert stage.settling.due() == 100.0 + RETRY
    assert stage.turn(100.3) == 100.3 + RETRY
    assert stage.done == ["q", "p", "q"], "one that is gone is asked once"
    stage.trouble = None
    assert stage.turn(100.6) == inf
    assert (stage.done[3:], stage.dropped) == (["q", "p"], ["a", "b"])
    stage.turn(101.0)
    assert len(stage.done) == 5


def test_what_the_server_refuses_is_not_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.settling.settle_later("q", ["a", "b"], stage.flow("q"))
    stage.trouble = PermissionDenied("may not")
    assert stage.turn(100.3) == inf
    assert (stage.dropped, list(stage.settling.later)) == (["a", "b"], [])
    assert "2 messages were not settled: may not" in caplog.text


def test_what_is_settled_later_keeps_no_ack_waiting(stage: Stage) -> None:
    stage.add(100.0, "a")
    stage.settling.settle_later("q", ["b"], stage.flow("q"))
    assert stage.settling.due() == 100.0 + ACK_DELAY


def test_an_ack_that_came_too_late_is_logged_with_its_message(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.acks.answered("q", [], ["c-1.0.a my%20id", "c-1.0.b"])
    assert caplog.messages == [
        "message my id of 'q' went to another consumer: c-1.0.a was acked too late",
        "a message of 'q' went to another consumer: c-1.0.b was acked too late",
    ]


# ── a cluster ─────────────────────────────────────────────────────────────────────────────────


class Cluster(Stage):
    """Each queue has a node of its own. What their threads are to do waits to be done by hand."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(engine, monkeypatch)
        self.jobs: list[tuple[Any, Callable[[], None]]] = []
        self.busy: set[str] = set()
        self.waited: list[float] = []
        self.doubted: set[Any] = set()
        monkeypatch.setattr(self.engine, "slots", SimpleNamespace(doubted=self.doubted))
        monkeypatch.setattr(self.engine, "place", self._place)
        monkeypatch.setattr(self.settling._nodes, "do", self._do)

    def _place(self, name: str) -> Any:
        return f"node of {name}", 1

    def _do(self, place: Any, _: str, job: Callable[[], None]) -> Any:
        if place[0] in self.busy:
            return None
        self.jobs.append((place[0], job))
        return SimpleNamespace(wait=self._wait)

    def _wait(self, seconds: float) -> None:
        self.waited.append(round(seconds, 3))
        self.now += 0.6

    def go(self) -> list[str]:
        """The threads do what they are to do; whose they are."""
        jobs, self.jobs = self.jobs, []
        for _, job in jobs:
            job()
        return [name for name, _ in jobs]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Engine("redis://127.0.0.1:1", lease=6 * PATIENCE) as engine:
        cluster = Cluster(engine, monkeypatch)
        yield cluster
        cluster.engine.slots = cluster.trouble = None
        cluster.troubles.clear()


def test_of_a_cluster_the_thread_of_the_node_sends_it_once_more(cluster: Cluster) -> None:
    cluster.take("q", "p")
    assert cluster.turn(101.0) == pytest.approx(101.0 + RETRY), "until then they are under way"
    assert cluster.go() == ["node of q", "node of p"]
    assert cluster.sent == [(["q"], True), (["p"], True)]
    assert cluster.turn(101.0 + RETRY) == inf


def test_of_a_cluster_each_node_is_sent_what_is_its_own(cluster: Cluster) -> None:
    cluster.settling.settle_now(Later("p", ["x"], cluster.flow("p")), 100.0)
    cluster.settling.settle_now(Later("o", ["y"], cluster.flow("o")), 100.0)
    cluster.add(100.0, "a")
    cluster.add(100.0, "b", "p")
    assert cluster.turn(100.0) == pytest.approx(100.0 + ACK_DELAY), "for more that come"
    assert cluster.go() == ["node of q", "node of p", "node of o"]
    assert cluster.sent == [(["a"], False), (["b"], False)]
    assert (cluster.done, cluster.dropped) == (["p", "o"], ["x", "y"])
    assert cluster.turn(100.1) == inf


def test_what_a_node_does_not_take_is_sent_a_moment_later(cluster: Cluster) -> None:
    cluster.troubles["q"] = ServerUnavailable("gone")
    cluster.add(100.0, "a")
    cluster.settling.flush()
    roused = cluster.roused
    cluster.settling.send_at = inf
    cluster.go()
    assert cluster.settling.due() == 100.0 + RETRY
    assert cluster.roused > roused
    cluster.troubles.clear()
    cluster.turn(100.0 + RETRY)
    cluster.go()
    assert cluster.turn(100.4) == inf


def test_what_meets_an_outage_of_a_node_is_settled_a_moment_later(cluster: Cluster) -> None:
    cluster.trouble = ServerUnavailable("gone")
    cluster.settling.settle_later("q", ["x"], cluster.flow("q"))
    assert cluster.turn(100.3) == inf, "until the node has it"
    roused = cluster.roused
    cluster.go()
    assert (cluster.settling.due(), cluster.roused) == (100.3 + RETRY, roused + 1)
    cluster.trouble = None
    cluster.turn(100.6)
    cluster.go()
    assert (cluster.settling.due(), cluster.roused) == (inf, roused + 1)
    assert (cluster.done, cluster.dropped) == (["q", "q"], ["x"])


def test_a_thread_that_is_to_end_goes_on_for_acks_alone(cluster: Cluster) -> None:
    cluster.trouble = ServerUnavailable("gone")
    cluster.settling.settle_later("q", ["x"], cluster.flow("q"))
    for receipt, goes_on in ((None, 0), ("a", 1)):
        if receipt is not None:
            cluster.add(100.0, receipt)
        cluster.settling.flush()
        cluster.settling._thread.closing = True
        roused = cluster.roused
        cluster.go()
        assert cluster.roused == roused + goes_on
    assert cluster.settling.due() == 100.0 + RETRY


def test_a_node_whose_thread_is_busy_is_tried_again(cluster: Cluster) -> None:
    cluster.busy.add("node of q")
    cluster.add(100.0, "a")
    assert cluster.turn(100.01) == pytest.approx(100.01 + RETRY)
    cluster.busy.clear()
    cluster.turn(100.31)
    assert cluster.go() == ["node of q"]


def test_all_nodes_together_are_waited_for_as_long_as_is_said(cluster: Cluster) -> None:
    cluster.busy.add("node of c")
    for name in "abcde":
        cluster.acks.add(name, name)
    assert not cluster.settling.flush()
    assert cluster.waited == []
    assert not cluster.settling.flush(1.0)
    assert cluster.waited == [1.0, 0.4, 0.0, 0.0]


def test_nothing_waits_for_a_node_that_is_in_doubt(cluster: Cluster) -> None:
    cluster.doubted.add(("node of q", 1))
    assert not cluster.settling.settle("q", ["a"], cluster.flow("q"))
    assert (cluster.done, cluster.settling.due()) == ([], 100.0 + RETRY)
    assert cluster.settling.settle("p", ["b"], cluster.flow("p"))
    assert (cluster.done, cluster.dropped) == (["p"], ["b"])


def test_nothing_is_sent_once_it_is_stopped(stage: Stage) -> None:
    stage.take("q")
    stage.settling.stop()
    assert stage.settling.due() == inf


# ── the end ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rested(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have the trouble be over then, on the clock that is played."""
    over = [inf]

    def sleep(seconds: float) -> None:
        assert 0 < seconds <= RETRY
        stage.now += seconds
        if stage.now >= over[0]:
            stage.trouble = None

    clock = SimpleNamespace(monotonic=lambda: stage.now, sleep=sleep)
    monkeypatch.setattr("atomq.settling.time", clock)
    return lambda at: over.__setitem__(0, at)


@pytest.mark.parametrize(("back", "ends"), [(101.0, 101.2), (inf, 105.0)])
@pytest.mark.parametrize("under_way", [False, True])
def test_at_the_end_acks_wait_for_a_server_that_is_away(
    stage: Stage, rested: Callable[[float], None], back: float, ends: float, under_way: bool
) -> None:
    stage.add(100.0, "a")
    if under_way:
        stage.acks.take("q")
    stage.trouble = ServerUnavailable("gone")
    rested(back)
    stage.settling.leave(2.0, 5.0)
    assert stage.now == pytest.approx(ends)
    assert (stage.acks.queues() + stage.acks.unanswered() == []) == (back == 101.0)


def test_at_the_end_nothing_is_waited_for_that_is_no_outage(
    stage: Stage, rested: Callable[[float], None]
) -> None:
    stage.settling.leave(2.0, 5.0)
    assert (stage.now, stage.sent) == (100.0, [])
    stage.add(100.0, "a")
    stage.acks.add("p", "b")
    stage.acks.take("p")
    stage.troubles = {"q": PermissionDenied("no")}
    stage.settling.leave(2.0, 5.0)
    assert (stage.now, stage.sent[-1]) == (100.0, (["b"], True)), "what a claim took is sent again"
    rested(inf)
    stage.acks.add("r", "c")
    stage.trouble = ServerUnavailable("gone")
    stage.settling.leave(2.0, 1.0)
    assert stage.now == pytest.approx(101.0)
