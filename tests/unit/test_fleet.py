"""What consumers of Kombu's say of themselves, and whether a fleet agrees. Without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from atomq.calls import Process
from atomq.cli import discovery, workers
from atomq.contrib import fleet
from atomq.contrib.fleet import KEPT_MS, LEAVING, SHARED, Attendance, Registration, Worker
from atomq.errors import ServerUnavailable
from tests.partitioned import engine_of

ALIKE = dict.fromkeys(SHARED, 1)


def worker(name: str, **settings: Any) -> Worker:
    return Worker(name, {**ALIKE, "host": name, "pid": 1, **settings})


class Register:
    """What the register is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def change(self, consuming: Any, queues: Any) -> None:
        self.said.append([keys.name for keys in queues])

    def leave(self, consuming: Any) -> None:
        self.said.append(f"leave {len(consuming)}")


class Server:
    """It answers what an attendance asks."""

    def __init__(self, scheme: str = "redis") -> None:
        self.engine: Any = engine_of(scheme)
        self.engine.run = self.run
        self.engine.register = Register()
        self.asked: list[str] = []
        self.names: list[str] = []
        self.records: dict[str, str] = {}
        self.fails: Exception | None = None

    def run(self, work: Any) -> Any:
        call = work if hasattr(work, "script") else next(work)
        self.asked.append(f"{call.script.name} {call.queue.name}")
        self.names += [str(arg) for arg in call.args]
        if self.fails is not None:
            raise self.fails
        return SimpleNamespace(partitions=self.records.get(call.queue.name, ""))


# ── which queues a process consumes ───────────────────────────────────────────────────────────


def test_a_queue_is_left_with_the_last_connection_that_consumes_it() -> None:
    server, spread = Server(), list[Any]()
    server.records["p"] = "record"
    one = Attendance(server.engine, lambda: "me", lambda *what: spread.append(what))
    one.stay(["q", "p"], by=1)
    one.stay(["q"], by=2)
    assert server.asked == ["attend q", "attend p", "attend q"]
    assert {"me", str(KEPT_MS)} <= {*server.names}
    assert spread == [("p", "record")]
    server.asked.clear()
    one.leave("q", by=1)
    assert server.asked == []
    one.leave("q", by=2)
    assert [asked.split()[1] for asked in server.asked] == ["q"]
    server.asked.clear()
    one.stay(["q"], by=1)
    one.stay(["q"], by=2)
    one.lost(by=1)  # the process goes on
    assert server.asked == ["attend q"] * 2
    one.leave("q", by=2)
    assert len(server.asked) == 3, "nobody else is left"
    server.names.clear()
    one.pass_by("r")
    assert "me.pops" in server.names


def test_only_to_leave_fails_while_the_server_is_away() -> None:
    server = Server()
    one = Attendance(server.engine, lambda: "me")
    server.fails = ServerUnavailable("away")
    one.stay(["q"], by=1)
    one.pass_by("q")
    with pytest.raises(ServerUnavailable):
        one.leave("q", by=1)


def test_on_a_cluster_a_thread_of_the_node_says_it_and_only_who_leaves_waits() -> None:
    server = Server("redis+cluster")
    one = Attendance(server.engine, lambda: "me")
    done: list[tuple[str, float]] = []

    def do(place: Any, what: str, job: Any) -> Any:
        job()
        wait = lambda seconds: done.append((f"{place} {what}", seconds))  # noqa: E731
        return None if what == "attend gone" else SimpleNamespace(wait=wait)

    one._threads = SimpleNamespace(do=do)  # type: ignore[assignment]
    server.fails = ServerUnavailable("away")
    one.stay(["q", "gone"], by=1)
    one.leave("q", by=1)
    place = server.engine.slots.owner(server.engine.keys("q").slot)
    assert done == [(f"{place} attend q", 0), (f"{place} leave q", LEAVING)]


def test_what_is_consumed_is_said_now_and_then_or_if_it_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(fleet.time, "monotonic", lambda: now[0])
    server = Server()
    holder: Any = SimpleNamespace()
    one = Registration(server.engine, holder, {}, Attendance(server.engine, lambda: "me"))
    for at, queues in ((100.0, "b"), (119.9, "b"), (119.9, "ab"), (139.8, "ab"), (139.9, "b")):
        now[0] = at
        one.refresh([*queues])
    assert server.asked == ["attend b", "attend a", "attend b"]
    assert server.engine.register.said == [["b"], ["a", "b"], ["a", "b"]]
    assert one._consuming.idle() == 0
    assert (one._consuming.concurrency, one._consuming.about) == (1, {"kind": "kombu"})
    now[0] += 3
    assert one._consuming.idle() == 3
    server.asked.clear()
    one.drop("none")
    one.drop("a")
    assert ([asked.split()[1] for asked in server.asked], server.engine.register.said[3:]) == (
        ["a"],
        [["b"]],
    )
    one.leave()
    assert server.engine.register.said[4:] == ["leave 1", []]
    assert len(server.asked) == 2
    one.refresh(["b"])
    assert server.asked[2:] == ["attend b"], "it is said again at once"
    one.lost()
    one.leave()
    assert len(server.asked) == 3


# ── whether a fleet agrees ────────────────────────────────────────────────────────────────────


def test_who_says_settings_is_a_worker() -> None:
    entries = [{**ALIKE, "clock_ms": 7}, {"queues": []}]
    found = fleet.of_register(Process(f"p{at}", 5, entry) for at, entry in enumerate(entries))
    assert [(each.name, each.skew_ms) for each in found] == [("p0", 2)]
    assert fleet.of_register([Process("p", 5, {SHARED[0]: 1})]), "though it says no other"


def test_workers_of_older_releases_are_read_as_far_as_they_can_be() -> None:
    entries = [("_atomq.worker.k", b"{"), ("k", None), ("k", b"[1]"), ("_atomq.worker.w", b"{}")]
    assert fleet.workers(entries) == [Worker("w", {})]


def test_each_setting_that_differs_is_named_with_who_has_what() -> None:
    assert fleet.disagreements([]) == fleet.disagreements([worker("a")] * 2) == []
    for name in SHARED:
        found = fleet.disagreements([worker("a"), worker("b", **{name: "x"}), worker("c")])
        assert found == [f'{name} differs: 1 on a (pid 1), c (pid 1); "x" on b (pid 1)']
    fleet_of_three = [worker(name, sep=name) for name in "abc"]
    assert len(fleet.disagreements(fleet_of_three)) == 1


@pytest.mark.parametrize(
    ("clocks", "said"),
    [
        ((0, 10_000), None),
        ((0, 10_001), "the clocks of a (pid 1) and b (pid 1) differ by 10 s"),
        ((70_000, -70_000, 3), "the clocks of b (pid 1) and a (pid 1) differ by 140 s"),
        ((0, 10**400), f"the clocks of a (pid 1) and b (pid 1) differ by {10**397} s"),
        ((0, "soon"), None),
        ((0, None), None),
        ((0, float("inf")), None),
    ],
    ids=lambda each: str(each)[:20],
)
def test_clocks_that_differ_by_more_than_ten_seconds_are_named(clocks: Any, said: Any) -> None:
    found = [
        worker(name, clock_ms=at, server_ms=0) for name, at in zip("abc", clocks, strict=False)
    ]
    assert fleet.disagreements(found) == ([said] if said else [])
    moved = [
        Worker(each.name, {**each.settings, "server_ms": 5, "clock_ms": each.skew_ms + 5})
        for each in found
    ]
    assert fleet.disagreements(moved) == ([said] if said else [])


def test_who_says_no_time_is_as_late_as_the_server() -> None:
    said: list[dict[str, Any]] = [{}, {"clock_ms": "3"}, {"clock_ms": 3}]
    assert [Worker("w", settings).skew_ms for settings in said] == [0, 0, 3]
    assert Worker("w", {"server_ms": 3}).skew_ms == -3
    assert str(Worker("w", {})) == "? (pid ?)"


@pytest.mark.parametrize(("said", "shown"), [(7, 7), ("soon", 0), (None, 0), (float("inf"), 0)])
def test_a_worker_of_an_older_release_is_listed_whatever_it_says_of_its_time(
    said: Any, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "older_workers", lambda _: [worker("a", server_ms=said)])
    session: Any = None
    assert [each["said_ms"] for each in workers._older(session)] == [shown]
