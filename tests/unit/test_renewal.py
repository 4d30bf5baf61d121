"""When leases are renewed, and what becomes of the answers. Engine, thread and clock are played."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import flows, renewal
from atomq.calls import Verdict
from atomq.errors import PermissionDenied, ServerUnavailable
from atomq.keys import Place, QueueKeys
from atomq.lease import Lease
from atomq.renewal import ASK, Renewal
from atomq.translating import unavailable

A, B = ("a", 1), ("b", 2)
LEASE_MS, RENEW = 3000, 1.0  # s
SOON = RENEW / 3
MAX_LEASE = 10.0
DONE, LOST, CANCELLED = Verdict.DONE, Verdict.LOST, Verdict.CANCELLED


class Holder:
    """What holds a lease, until a test drops it."""


class Stage:
    """A renewal, on a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lease_ms: int = LEASE_MS) -> None:
        self.now = 100.0
        monkeypatch.setattr(renewal, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(renewal, "clock", lambda: 1000 + self.now)
        self.asked: list[tuple[str, list[str]]] = []
        self.verdicts: dict[str, Any] = {}
        self.lost: list[str] = []
        self.cancelled: list[str] = []
        self.roused = 0
        self.thread = SimpleNamespace(
            wake=threading.RLock(), closing=False, rouse=self._rouse, name="leases"
        )
        self.places: dict[str, Place] = {}
        engine: Any = SimpleNamespace(
            slots=None, run=self._run, keys=QueueKeys, place=self.places.get
        )
        self.engine = engine
        self.jobs: list[tuple[Any, str, Callable[[], None]]] = []
        self.busy = False
        thread: Any = self.thread
        options: Any = SimpleNamespace(lease_ms=lease_ms, max_lease=MAX_LEASE)
        self.renewal = Renewal(engine, options, thread, self.lost.extend, self.cancelled.extend)
        self.leases: dict[str, Lease] = {}
        self.holders: dict[str, Holder] = {}
        nodes: Any = SimpleNamespace(do=self._do)
        self.renewal.begin(self.leases, nodes)

    def _rouse(self) -> None:
        self.roused += 1

    def _do(self, place: Any, what: str, job: Callable[[], None]) -> object:
        self.jobs.append((place, what, job))
        return None if self.busy else object()

    def _run(self, call: Any) -> list[Verdict]:
        receipts = list(call.args[3:])
        self.asked.append((call.queue.name, receipts))
        answer = self.verdicts.get(call.queue.name)
        if isinstance(answer, Exception):
            raise answer
        return [self.verdicts.get(receipt, DONE) for receipt in receipts]

    def hold(self, *receipts: str, queue: str = "q", tracked: bool = False) -> None:
        for receipt in receipts:
            self.holders[receipt] = Holder()
            ref = weakref.ref(self.holders[receipt])
            self.leases[receipt] = Lease(queue, ref, 1000 + self.now, tracked=tracked)

    def at(self, now: float) -> list[tuple[str, list[str]]]:
        """What is renewed at this time."""
        self.now = now
        self.renewal.turn(now)
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


# ── when ──────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_due_before_something_is_held(stage: Stage) -> None:
    assert stage.renewal.due() == inf
    assert stage.at(1e9) == []


def test_what_is_held_is_renewed_three_times_a_lease(stage: Stage) -> None:
    stage.hold("a", "b")
    stage.hold("c", queue="other")
    stage.renewal.renew_in_time()
    assert (stage.renewal.due(), stage.roused) == (100.0 + RENEW, 1)
    assert stage.at(100.9) == []
    assert stage.at(101.0) == [("q", ["a", "b"]), ("other", ["c"])]
    assert stage.renewal.due() == 102.0
    assert stage.at(101.9) == []
    assert len(stage.at(102.0)) == 2
    stage.leases.clear()
    assert stage.at(103.0) == []
    assert stage.renewal.due() == inf
    stage.renewal.renew_in_time()
    stage.renewal.stop()
    assert stage.renewal.due() == inf


@pytest.mark.parametrize(("lease_ms", "soon"), [(LEASE_MS, SOON), (60_000, 0.5)])
def test_what_was_not_renewed_is_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch, lease_ms: int, soon: float
) -> None:
    stage = Stage(monkeypatch, lease_ms)
    stage.hold("a")
    stage.verdicts["q"] = ServerUnavailable("away")
    stage.renewal.renew_in_time()
    begin = stage.renewal.due()
    assert stage.at(begin) == [("q", ["a"])]
    assert stage.renewal.due() == begin + soon
    assert stage.leases["a"].since == 1100.0
    stage.verdicts.clear()
    assert stage.at(begin + soon) == [("q", ["a"])]
    assert stage.leases["a"].since == 1000 + begin + soon, "as of when it was asked"
    assert stage.renewal.due() == begin + soon + lease_ms / 3000


def test_what_is_tracked_is_asked_about_each_second(stage: Stage) -> None:
    stage.hold("a", tracked=True)
    stage.hold("b")
    stage.hold("c", queue="other")
    stage.renewal.ask_soon()
    assert (stage.renewal.due(), stage.roused) == (100.0 + ASK, 1)
    assert stage.at(100.9) == []
    assert stage.at(101.0) == [("q", ["a"])]
    assert stage.renewal.due() == 101.0 + ASK
    del stage.leases["a"]
    assert stage.at(102.0) == []
    assert stage.renewal.due() == inf


# ── what ──────────────────────────────────────────────────────────────────────────────────────


def test_a_lease_whose_holder_is_garbage_is_forgotten_when_it_ends(stage: Stage) -> None:
    stage.hold("a", "b")
    del stage.holders["a"]
    stage.now += LEASE_MS / 1000
    assert stage.renewal.held() == {"q": ["b"]}
    assert "a" in stage.leases, "it may be given back yet"
    stage.now += 0.001
    assert stage.renewal.held() == {"q": ["b"]}
    assert [*stage.leases] == ["b"]


def test_what_is_worked_on_for_too_long_is_let_go(stage: Stage, caplog: Any) -> None:
    stage.hold("a", "b", "c")
    stage.leases["a"].started = stage.now
    stage.leases["b"].started = stage.now + 1
    stage.now += MAX_LEASE
    assert stage.renewal.held() == {"q": ["a", "b", "c"]}
    stage.now += 0.01
    assert stage.renewal.held() == {"q": ["b", "c"]}
    assert [*stage.leases] == ["b", "c"]
    assert len(caplog.records) == 1
    assert "longer than max_lease" in caplog.text
    stage.renewal.max_lease = None
    stage.now += MAX_LEASE
    assert stage.renewal.held() == {"q": ["b", "c"]}


def test_an_answer_says_what_is_lost_and_what_was_cancelled(stage: Stage) -> None:
    stage.hold("a", "b", "c")
    stage.verdicts = {"b": LOST, "c": CANCELLED}
    stage.now += 1
    stage.renewal.renew()
    assert (stage.lost, stage.cancelled) == (["b"], ["c"])
    assert stage.leases["a"].since == 1101.0
    stage.lost.clear()
    stage.renewal._lost = lambda receipts: [stage.leases.pop(each) for each in receipts]
    stage.renewal.renew()
    assert [*stage.leases] == ["a", "c"], "nothing is said of what is gone"


def test_of_a_queue_in_trouble_the_rest_waits_and_other_queues_do_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(
        flows, "batches", lambda some: [some[i : i + 2] for i in range(0, len(some), 2)]
    )
    stage.hold("a", "b", "c")
    stage.hold("d", queue="other")
    assert stage.renewal.renew() == RENEW
    assert stage.asked == [("q", ["a", "b"]), ("q", ["c"]), ("other", ["d"])]
    stage.asked.clear()
    stage.verdicts["q"] = PermissionDenied("no")
    assert stage.renewal.renew() == SOON
    assert stage.asked == [("q", ["a", "b"]), ("other", ["d"])]
    assert caplog.messages == ["2 leases of q not renewed yet: no"]


@pytest.mark.parametrize("unsent", [False, True])
def test_a_server_that_takes_nothing_is_asked_for_one_queue_and_all_are_tried_again(
    stage: Stage, unsent: bool
) -> None:
    """Where an answer was lost, it may have been on its way for too long for this queue alone."""
    for queue in ("q", "other", "third"):
        stage.hold(queue, queue=queue)
    stage.verdicts["other"] = unavailable("NOREPLICAS", unsent=unsent)
    assert stage.renewal.renew() == SOON
    asked = [("q", ["q"]), ("other", ["other"]), ("third", ["third"])]
    assert stage.asked == (asked[:2] if unsent else asked)
    by_queue = {queue: [queue] for queue in ("q", "other", "third")}
    left = stage.renewal._extend_some(by_queue)
    assert left == (["other", "third"] if unsent else ["other"])


@pytest.mark.parametrize("beside", [False, True])
def test_a_renewal_says_how_often_it_comes_and_whether_there_is_company(
    stage: Stage, beside: bool
) -> None:
    given = {"beside": True} if beside else {}
    call = stage.renewal.extending("q", ["a"], **given)
    assert list(call.args) == [LEASE_MS, int(RENEW * 1000), int(beside), "a"]


# ── a cluster ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cluster(stage: Stage) -> Stage:
    stage.engine.slots = object()
    stage.places.update({"q": A, "beside": A, "other": B})
    for number, queue in enumerate(stage.places):
        stage.hold(f"r{number}", queue=queue)
    stage.renewal.renew_in_time()
    return stage


def test_on_a_cluster_each_node_has_its_own_thread(cluster: Stage) -> None:
    assert cluster.at(101.0) == []
    assert [(place, what) for place, what, _ in cluster.jobs] == [(A, "leases"), (B, "leases")]
    assert cluster.renewal.due() == 102.0
    for _, _, job in cluster.jobs:
        job()
    assert cluster.asked == [("q", ["r0"]), ("beside", ["r1"]), ("other", ["r2"])]
    assert cluster.renewal.due() == 102.0


def test_a_node_in_trouble_is_tried_again_soon_for_its_queues_alone(cluster: Stage) -> None:
    cluster.at(101.0)
    cluster.verdicts["q"] = ServerUnavailable("away")
    cluster.now = 101.1
    roused = cluster.roused
    for _, _, job in cluster.jobs:
        job()
    assert cluster.renewal.due() == 101.1 + SOON
    assert cluster.roused == roused + 1
    cluster.jobs.clear()
    cluster.at(101.1 + SOON - 0.01)
    assert cluster.jobs == []
    cluster.at(101.1 + SOON)
    ((place, _, job),) = cluster.jobs
    cluster.asked.clear()
    cluster.verdicts.clear()
    job()
    assert (place, cluster.asked) == (A, [("q", ["r0"])])
    assert cluster.renewal.due() == 102.0, "and then no more"


def test_the_first_that_is_to_be_tried_again_says_when(cluster: Stage) -> None:
    cluster.renewal._retry_soon(["q"])
    cluster.now += 0.1
    cluster.renewal._retry_soon(["other"])
    assert cluster.renewal.due() == 100.0 + SOON
    cluster.at(100.0 + SOON)
    assert [place for place, _, _ in cluster.jobs] == [A, B]


def test_a_node_whose_thread_is_busy_with_that_is_tried_again_soon(cluster: Stage) -> None:
    cluster.busy = True
    cluster.at(101.0)
    assert cluster.renewal.due() == 101.0 + SOON
    cluster.busy = False
    cluster.jobs.clear()
    cluster.at(101.0 + SOON)
    assert [place for place, _, _ in cluster.jobs] == [A, B]


def test_at_the_end_the_thread_is_not_begun_anew(cluster: Stage) -> None:
    cluster.thread.closing = True
    roused = cluster.roused
    cluster.renewal._retry_soon(["q"])
    assert cluster.roused == roused
