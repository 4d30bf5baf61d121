"""What this process writes into the register, and when. No server is asked, no thread runs."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakSet

import pytest

from atomq import fork
from atomq import register as module
from atomq.errors import AtomqError, PermissionDenied, ServerUnavailable
from atomq.keys import QueueKeys, RegisterKeys
from atomq.outage import Unreported
from atomq.register import (
    AGAIN,
    CLOSING,
    EVERY,
    IDLE,
    KEPT_MS,
    LARGEST,
    NOTED,
    PATIENCE,
    QUEUES,
    REFUSED,
    WORK,
    Consuming,
    Register,
    Work,
    register_of,
)

BEGIN = 1000.0


class Said(NamedTuple):
    """One call to the server."""

    process: str
    alive_ms: int
    gone: bool
    entry: dict[str, Any] | None
    queues: list[str]


class Holder:
    """What holds messages."""

    def __init__(self, *works: Work, holds: int | None = None) -> None:
        self.works, self.holds = list(works), len(works) if holds is None else holds

    def working(self, most: int) -> tuple[int, list[Work]]:
        return self.holds, self.works[:most]


class Stage:
    """A register, its engine, and its thread, which takes a turn when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, off: bool = False) -> None:
        self.now = BEGIN
        self.said: list[Said] = []
        self.attempts: list[int] = []
        self.waited: float | None = None
        self.roused = self.made = self.closed = 0
        self.joined: list[float] = []
        self.trouble: AtomqError | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while the server is asked."""
        monkeypatch.setattr("atomq.register._registers", WeakSet())
        self.register = Register(RegisterKeys(), self._make, off=off)
        self._thread: Any = self.register._thread
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(self._thread, "rouse", self._rouse)
        monkeypatch.setattr(self._thread.wake, "notify", lambda: None)
        monkeypatch.setattr(self._thread.wake, "wait", self._wait)
        # What an engine has.
        self.address = SimpleNamespace(directory=None)
        self.standing = SimpleNamespace(outage=None)
        self._pool = SimpleNamespace(everywhere=lambda: [self.standing])
        self.retry: Any = None
        self.slots: Any = None
        self.verified = False
        self.asked_for_nodes = 0
        self.found: Callable[[], Sequence[Any]] = list

    def _rouse(self) -> None:
        self.roused += 1
        self._thread.closing = False
        if self._thread._thread is None:
            self._thread._thread = SimpleNamespace(join=self._join, is_alive=lambda: True)

    def _join(self, seconds: float) -> None:
        self.joined.append(seconds)
        for _ in range(3 if seconds > 0 else 0):
            if self._thread.runs:
                self.turn()

    def _wait(self, seconds: float) -> None:
        self.waited = seconds

    def _make(self) -> Any:
        self.made += 1
        return self

    def run(self, call: Any) -> int:
        process, alive_ms, gone, entry, *queues = call.args
        self.said.append(Said(process, alive_ms, bool(gone), entry and json.loads(entry), queues))
        self.attempts.append(self.retry.attempts)
        assert (self.retry.budget, self.verified) == (PATIENCE, True)
        self.meanwhile()
        if self.trouble is not None:
            raise self.trouble
        return 1

    def replicas(self) -> Sequence[Any]:
        self.asked_for_nodes += 1
        return self.found()[1:]

    def nodes(self) -> Sequence[Any]:
        return self.found()[:1]

    def close(self) -> None:
        self.closed += 1

    def consuming(
        self,
        *queues: QueueKeys,
        holder: Holder | None = None,
        idle: float = 0.0,
        concurrency: int = 1,
        limits: dict[str, float] | None = None,
        about: dict[str, Any] | None = None,
    ) -> Consuming:
        return Consuming(
            queues, concurrency, holder or Holder(), lambda: idle, limits or {}, about or {}
        )

    def consume(self, *queues: QueueKeys, **more: Any) -> Consuming:
        """A consumer begins to ask for messages."""
        one = self.consuming(*queues, **more)
        self.register.consume(one)
        return one

    def turn(self, at: float | None = None) -> bool:
        """Have the thread take a turn; whether there is another one."""
        if at is not None:
            self.now = at
        self.waited = None
        return self.register._turn()

    def heard(self, at: float | None = None) -> list[Said]:
        """What it says in its next turn."""
        self.said.clear()
        self.turn(at)
        return self.said

    @property
    def entry(self) -> dict[str, Any]:
        """What it says of itself."""
        (said,) = self.heard()
        assert said.entry is not None
        return said.entry


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    found = Stage(monkeypatch)
    yield found
    found._thread._thread = None


def queue(name: str, whole: str = "") -> QueueKeys:
    return QueueKeys(name, whole=whole)


def names(said: Sequence[Said]) -> list[list[str]]:
    return [each.queues for each in said]


# ── names of queues ───────────────────────────────────────────────────────────────────────────


def test_a_name_is_written_and_then_the_thread_ends(stage: Stage) -> None:
    stage.register.note(queue("b"))
    stage.register.note(queue("a"))
    assert not stage.turn()
    assert stage.said == [Said("", 0, False, "", ["a", "b"])]  # type: ignore[arg-type]
    assert (stage.closed, stage._thread.runs, stage.waited) == (1, False, None)


def test_of_a_queue_that_went_and_came_the_last_word_counts(stage: Stage) -> None:
    stage.register.note(queue("gone"))
    stage.register.note(queue("gone"), gone=True)
    stage.register.note(queue("back"), gone=True)
    stage.register.note(queue("back"))
    assert [(each.gone, each.queues) for each in stage.heard()] == [
        (True, ["gone"]),
        (False, ["back"]),
    ]
    assert stage.roused == 4


def test_a_call_takes_a_thousand_names(stage: Stage) -> None:
    _one = stage.consume(*(queue(f"{n:04}") for n in range(1001)))
    for n in range(1001):
        stage.register.note(queue(f"gone {n:04}"), gone=True)
    said = stage.heard()
    assert [(each.gone, len(each.queues)) for each in said] == [
        *((True, 1000), (True, 1), (False, 1000), (False, 1)),
    ]
    assert [bool(each.process) for each in said] == [False, False, True, True]


def test_a_name_that_was_written_is_written_again_after_an_hour(stage: Stage) -> None:
    noted = queue("noted")
    noted.noted = inf  # a queue that expires
    one = stage.consume(queue("q"), noted)
    assert names(stage.heard(BEGIN)) == [["q"]]
    assert names(stage.heard(BEGIN + NOTED)) == [[]]
    one.asked = stage.now
    assert names(stage.heard(BEGIN + NOTED + EVERY)) == [["q"]]


def test_what_is_noted_meanwhile_is_written_in_the_next_turn_at_once(stage: Stage) -> None:
    def meanwhile() -> None:
        stage.meanwhile = lambda: None
        stage.register.note(queue("b"))

    stage.meanwhile = meanwhile
    stage.register.note(queue("a"))
    assert stage.turn()
    assert stage.waited is None
    assert not stage.turn()
    assert names(stage.said) == [["a"], ["b"]]
    assert (stage.made, stage.closed) == (1, 2)


# ── when a process says that it is there ──────────────────────────────────────────────────────


def test_a_process_says_every_20_seconds_that_it_is_there(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    assert stage.turn(BEGIN)
    (said,) = stage.said
    assert (said.process, said.alive_ms, said.queues) == (fork.process(), KEPT_MS, ["q"])
    assert stage.waited == IDLE
    assert stage.heard(BEGIN + 18) == []
    assert stage.waited == 2.0
    assert len(stage.heard(BEGIN + EVERY)) == 1
    assert stage.attempts == [3, 3]
    assert (stage.made, stage.closed) == (1, 2), "nothing idles so long over a connection"
    assert isinstance(stage.standing.outage, Unreported)
    assert one.listed


def test_a_thread_does_not_wait_for_what_is_past(stage: Stage) -> None:
    _one = stage.consume(queue("q"))

    def meanwhile() -> None:
        stage.now += 30

    stage.meanwhile = meanwhile
    assert stage.turn(BEGIN)
    assert stage.waited == 0.0


def test_a_consumer_that_asks_again_rouses_nothing(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    stage.turn()
    stage.now += 1
    stage.register.consume(one)
    assert (stage.roused, one.asked) == (1, BEGIN + 1)


def test_what_is_no_news_waits_for_the_next_word(stage: Stage) -> None:
    _one = stage.consume(keys := queue("q"))
    stage.turn()
    _two = stage.consume(keys)
    assert stage.heard(BEGIN + 1) == []
    _three = stage.consume(queue("new"))
    assert names(stage.heard(BEGIN + 2)) == [["new"]]
    assert stage.heard(BEGIN + 3) == []


def test_what_a_consumer_consumes_from_now_on_is_said_at_once(stage: Stage) -> None:
    one = stage.consuming()
    for at, name in enumerate("qp"):
        stage.register.change(one, [queue(name)])
        assert stage.roused == at + 1
        (said,) = stage.heard(BEGIN + at)
        assert said.entry is not None
        assert said.entry["queues"] == [name]
    stage.register.consume(one)
    assert stage.roused == 2, "it is known already"


def test_a_change_that_comes_while_it_is_said_is_said_next(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    stage.meanwhile = lambda: stage.register.change(one, [queue("p")])
    stage.turn()
    assert stage.waited == 0.0
    stage.meanwhile = lambda: None
    assert stage.entry["queues"] == ["p"]


def test_two_addresses_have_an_entry_each_as_they_may_be_of_one_server(stage: Stage) -> None:
    others = [Register(RegisterKeys(), stage._make, off=False) for _ in range(2)]
    mine = fork.process()
    assert [each._named() for each in others * 2] == [mine, f"{mine}-2"] * 2
    one = stage.consume(queue("q"))
    assert [said.process for said in stage.heard()] == [f"{mine}-3"]
    stage.register.leave([one])
    assert [(said.process, said.alive_ms) for said in stage.heard()] == [(f"{mine}-3", 0)]
    others[0].forked()
    _again = stage.consume(queue("q"))
    assert [said.process for said in stage.heard(BEGIN + EVERY)] == [mine], "none has it now"


def test_behind_the_last_consumer_the_entry_is_taken_out(stage: Stage) -> None:
    one, other = stage.consume(queue("q")), stage.consume(queue("p"))
    stage.turn()
    stage.register.leave([one])
    assert stage.entry["queues"] == ["p"]
    stage.register.leave([other])
    assert stage.heard() == [Said(fork.process(), 0, False, "", [])]  # type: ignore[arg-type]
    assert stage.attempts[-1] == 0, "nothing waits long for a process that leaves"
    assert (stage._thread.runs, stage.register._engine) == (False, None)
    roused = stage.roused
    stage.register.leave([other])
    assert stage.roused == roused, "what is not there has no thread that could say so"


def test_an_entry_that_could_not_be_taken_out_is_left_to_its_end(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    stage.turn()
    stage.register.leave([one])
    stage.trouble = ServerUnavailable("gone")
    assert not stage.turn()


@pytest.mark.parametrize("runs", [True, False])
def test_the_last_word_starts_no_embedded_server(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    monkeypatch.setattr(module.embedded, "status", lambda _: "its status" if runs else None)
    stage.address.directory = "its home"
    one = stage.consume(queue("q"))
    assert len(stage.heard()) == 1, "a consumer needs its server"
    stage.register.leave([one])
    assert [each.alive_ms for each in stage.heard()] == [0] * runs


def test_a_consumer_that_is_dropped_leaves(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    stage.turn()
    del one
    assert [each.alive_ms for each in stage.heard(BEGIN + EVERY)] == [0]


@pytest.mark.parametrize(
    ("idle", "asked_ago", "holds", "is_there"),
    [
        (60.0, 60.0, 0, False),
        (59.0, 90.0, 0, True),
        (90.0, 59.0, 0, True),
        (90.0, 90.0, 1, True),
        (inf, 90.0, 0, False),
    ],
)
def test_a_consumer_is_there_while_it_asks_or_holds(
    stage: Stage, idle: float, asked_ago: float, holds: int, is_there: bool
) -> None:
    one = stage.consume(queue("q"), idle=idle, holder=Holder(holds=holds))
    stage.turn()
    one.asked = BEGIN + 100 - asked_ago
    assert [bool(each.alive_ms) for each in stage.heard(BEGIN + 100)] == [is_there]
    assert one.listed is is_there
    stage.register.consume(one)
    assert stage.register._thread.runs
    assert list(stage.register._consumers) == [one], "one that asks again is there again"


def test_what_has_no_other_processes_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, off=True)
    one = stage.consume(queue("q"))
    stage.register.change(one, [queue("p")])
    assert (stage.roused, one.listed, stage.said) == (0, False, [])


# ── its end ───────────────────────────────────────────────────────────────────────────────────


def test_a_holder_that_closes_takes_its_consumers_out_before_it_returns(stage: Stage) -> None:
    mine, other = Holder(), Holder()
    _consumers = [stage.consume(queue(n), holder=mine) for n in "ab"]
    _another = stage.consume(queue("c"), holder=other)
    stage.turn()
    stage.register.left_by(mine)
    assert stage.joined == [], "the process is there for another one"
    assert stage.entry["queues"] == ["c"]
    stage.register.left_by(other)
    assert stage.joined == [CLOSING]
    assert stage.said[-1].alive_ms == 0


def test_a_process_that_ends_takes_itself_out(stage: Stage) -> None:
    one = stage.consume(queue("q"))
    stage.turn()
    stage.register.note(queue("new"))
    stage.said.clear()
    stage.register.close()
    assert stage.said == [Said(fork.process(), 0, False, "", ["new"])]  # type: ignore[arg-type]
    assert (stage.attempts[-1], stage.joined, one.listed) == (0, [CLOSING], False)
    stage.register.consume(one)
    assert [each.alive_ms for each in stage.heard()] == [KEPT_MS], "what asks again is there again"


@pytest.mark.parametrize("closes", [False, True])
def test_what_consumes_while_the_entry_is_taken_out_is_there_at_once(
    stage: Stage, closes: bool
) -> None:
    """The entry was listed still, so nothing was new, and it came back 20 s later."""
    one = stage.consume(queue("q"))
    stage.turn()

    def meanwhile() -> None:
        stage.meanwhile = lambda: None
        stage.register.consume(one)

    stage.register.leave([one])
    one.listed = False
    stage._thread.closing = closes
    stage.meanwhile = meanwhile
    stage.said.clear()
    assert stage.turn()
    assert stage.turn()
    assert [each.alive_ms for each in stage.said] == [0, KEPT_MS]


def test_a_thread_that_is_to_end_does_not_wait_first(stage: Stage) -> None:
    _one = stage.consume(queue("q"))

    def meanwhile() -> None:
        stage._thread.closing = True

    stage.meanwhile = meanwhile
    assert stage.turn()
    assert stage.waited is None
    assert not stage.turn()


def test_a_forked_child_has_said_nothing_yet(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    leaked: list[Any] = []
    monkeypatch.setattr(fork, "leak", leaked.append)
    _one = stage.consume(queue("q"))
    stage.register.about["kind"] = "parent"
    stage.register.note(queue("p"))
    stage.turn()
    stage.register.forked()
    assert leaked == [stage]
    assert stage.heard() == []
    assert stage.register.about == {}


def test_engines_of_equal_addresses_share_one() -> None:
    keys = RegisterKeys()
    one = register_of(("here", 1), keys, list)
    assert register_of(("here", 1), keys, list) is one
    other = register_of(("here", 2), keys, list, off=True)
    assert other is not one
    assert (one._off, other._off) == (False, True)


# ── what cannot be written ────────────────────────────────────────────────────────────────────


def test_during_an_outage_it_is_tried_every_20_seconds_and_names_each_minute(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stage.trouble = ServerUnavailable("gone")
    _one = stage.consume(queue("q"))
    assert stage.turn(BEGIN)
    _two = stage.consume(queue("p"))
    assert stage.heard(BEGIN + EVERY - 1) == [], "what comes new does not try it sooner"
    assert names(stage.heard(BEGIN + EVERY)) == [["p"]]
    assert names(stage.heard(BEGIN + 2 * EVERY)) == [[]]
    assert names(stage.heard(BEGIN + 3 * EVERY)) == [[]]
    stage.trouble = None
    assert names(stage.heard(BEGIN + AGAIN + EVERY)) == [["q"]]
    _three = stage.consume(queue("o"))
    assert names(stage.heard(BEGIN + AGAIN + EVERY + 1)) == [["o", "p"]], "it is well again"
    levels = {each.levelno for each in caplog.records if each.name == "atomq.register"}
    assert levels == {logging.DEBUG}


def test_what_this_user_may_not_write_is_tried_every_ten_minutes_and_logged_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stage.trouble = PermissionDenied("may not")
    one = stage.consume(queue("q"), holder=Holder(holds=1))
    stage.turn(BEGIN)
    assert stage.heard(BEGIN + REFUSED - 1) == []
    assert names(stage.heard(BEGIN + REFUSED)) == [[]]
    assert names(stage.heard(BEGIN + 2 * REFUSED)) == [["q"]]
    stage.trouble = ServerUnavailable("gone")
    stage.heard(BEGIN + 3 * REFUSED)
    stage.trouble = PermissionDenied("may not")
    stage.heard(BEGIN + 4 * REFUSED)
    stage.trouble = None
    stage.heard(BEGIN + 5 * REFUSED)
    stage.trouble = PermissionDenied("may not")
    stage.heard(BEGIN + 6 * REFUSED)
    levels = [each.levelname for each in caplog.records if each.name == "atomq.register"]
    assert levels == ["INFO", "DEBUG", "DEBUG", "DEBUG", "INFO", "INFO"]
    assert caplog.records[0].getMessage() == "the register could not be written: may not"
    assert one.listed


def test_a_name_that_is_refused_is_not_asked_for_sooner_than_it_was_to_be(stage: Stage) -> None:
    keys = queue("q")
    keys.noted = inf
    stage.trouble = ServerUnavailable("gone")
    stage.register.note(keys)
    assert names(stage.heard()) == [["q"]]
    assert keys.noted == inf


def test_the_thread_rests_after_a_fault_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rests = SimpleQueue[float]()
    monkeypatch.setattr("atomq.background.time", SimpleNamespace(sleep=rests.put))

    def make_engine() -> Any:
        raise KeyError("a fault of ours")

    register = Register(RegisterKeys(), make_engine, off=False)
    register.note(queue("q"))
    assert rests.get(timeout=5) > 0
    register._thread.join(5)
    assert not register._thread.runs
    assert "the thread that writes the register goes on" in caplog.text


# ── nodes that are to know the scripts ─────────────────────────────────────────────────────────


class Heir:
    """One that does not know the scripts."""

    def __init__(self, name: str, load: Callable[[], object] = lambda: None) -> None:
        self.name, self.load = name, load

    def knows_scripts(self) -> bool:
        return False


def test_nodes_are_looked_at_when_a_process_says_that_it_is_there(stage: Stage) -> None:
    loaded: list[str] = []
    stage.found = lambda: [Heir(n, lambda n=n: loaded.append(n)) for n in "ab"]  # type: ignore[misc]
    stage.register.note(queue("p"))
    stage.turn()
    assert stage.asked_for_nodes == 0, "what only publishes looks at none"
    one = stage.consume(queue("q"))
    stage.turn()
    assert loaded == ["a", "b"]
    stage.register.note(queue("new"))
    stage.turn(BEGIN + 1)
    assert stage.asked_for_nodes == 1
    stage.turn(BEGIN + EVERY)
    assert stage.asked_for_nodes == 2
    stage.register.leave([one])
    stage.turn()
    assert stage.asked_for_nodes == 2


def test_where_a_script_was_missing_all_nodes_are_looked_at_soon(stage: Stage) -> None:
    """But by what consumes, and once for all that were missing."""
    loaded: list[str] = []
    stage.found = lambda: [Heir(n, lambda n=n: loaded.append(n)) for n in "ab"]  # type: ignore[misc]
    stage.register.look()
    assert stage.roused == 0
    _one = stage.consume(queue("q"))
    stage.turn()
    said, roused = len(stage.said), stage.roused
    for _ in range(3):
        stage.register.look()
    assert stage.roused == roused + 1
    stage.turn(BEGIN + 1)
    stage.turn(BEGIN + 2)
    assert loaded == ["a", "b"] * 2
    assert len(stage.said) == said, "nothing else is said before its time"
    assert stage.closed == 2


def test_a_cluster_without_replicas_is_looked_at_and_one_server_only_where_scripts_are_missing(
    stage: Stage,
) -> None:
    loaded: list[str] = []
    stage.found = lambda: [Heir("a", lambda: loaded.append("a"))]
    _one = stage.consume(queue("q"))
    stage.turn()
    assert loaded == []
    stage.register.look()
    stage.turn(BEGIN + 1)
    assert loaded == ["a"]
    stage.turn(BEGIN + EVERY + 1)
    assert loaded == ["a"]
    stage.slots = object()
    stage.turn(BEGIN + 2 * EVERY + 2)
    assert loaded == ["a", "a"]


def test_a_script_that_is_missing_meanwhile_has_them_looked_at_once_more(stage: Stage) -> None:
    stage.found = list
    _one = stage.consume(queue("q"))
    stage.meanwhile = stage.register.look
    stage.turn()
    assert stage.waited is None
    stage.meanwhile = lambda: None
    stage.turn(BEGIN + 1)
    assert (stage.asked_for_nodes, stage.waited) == (2, IDLE)


def test_a_process_that_ends_looks_at_no_more_nodes(stage: Stage) -> None:
    loaded: list[str] = []

    def load() -> None:
        loaded.append("")
        stage._thread.closing = True

    stage.found = lambda: [Heir(n, load) for n in "ab"]
    _one = stage.consume(queue("q"))
    stage.turn()
    assert len(loaded) == 1
    stage.turn()
    assert stage.asked_for_nodes == 1, "nor with its last word"


def test_what_is_to_be_said_waits_for_one_node_at_most(stage: Stage) -> None:
    """One that is away takes its time, and the others are looked at afterwards."""
    loaded: list[str] = []
    one, _other = stage.consume(queue("q")), stage.consume(queue("r"))

    def load(name: str) -> None:
        loaded.append(name)
        if loaded == ["a"]:
            stage.register.leave([one])

    stage.found = lambda: [Heir(n, lambda n=n: load(n)) for n in "abc"]  # type: ignore[misc]
    stage.turn()
    assert loaded == ["a"]
    stage.turn()
    assert loaded[1:3] == ["b", "c"]
    del loaded[:]
    stage.register.look()
    stage.turn()
    assert loaded == ["a"]
    stage.turn()
    assert loaded[1:] == ["a", "b", "c"], "all of them, as a script was missing"


def test_nodes_that_are_not_known_stop_nothing(stage: Stage) -> None:
    def found() -> list[Any]:
        raise ServerUnavailable("gone")

    stage.found = found
    _one = stage.consume(queue("q"))
    assert stage.turn()
    assert stage.waited == IDLE


# ── the entry ─────────────────────────────────────────────────────────────────────────────────


def test_an_entry_says_where_it_is_and_what_it_does(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 5.5)
    stage.register._started_ms = 3
    works = [Work("q", "short", 1.0), Work("q#1.7", "long", 9.0, "task")]
    holder = Holder(*works, holds=7)
    _several = [
        stage.consume(queue("q#1.7", "q"), queue("q"), concurrency=3, holder=holder),
        stage.consume(queue("a"), concurrency=2, holder=holder),
        stage.consume(queue("a"), holder=Holder(Work("a", "middle", 5.0)), concurrency=0),
    ]
    entry = stage.entry
    assert entry == {
        "kind": "atomq",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_ms": 3,
        "version": entry["version"],
        "queue_count": 2,
        "limits": {},
        "concurrency": 5,
        "holds": 8,
        "clock_ms": 5500,
        "partitions": {"q": 2},
        "queues": ["a", "q"],
        "working": [
            {"queue": "q", "id": "long", "seconds": 9.0, "task": "task"},
            {"queue": "a", "id": "middle", "seconds": 5.0, "task": ""},
            {"queue": "q", "id": "short", "seconds": 1.0, "task": ""},
        ],
    }


def test_a_process_began_when_its_register_did() -> None:
    began = time.time() * 1000
    started = Register(RegisterKeys(), list, off=False)._started_ms
    assert began - 1 <= started <= time.time() * 1000


def test_what_a_process_says_of_itself_stands_above_what_its_consumers_say(stage: Stage) -> None:
    _one = stage.consume(queue("q"), about={"kind": "worker", "pool": "solo"}, concurrency=2)
    stage.register.about["pool"] = "prefork"
    stage.register.concurrency = lambda: 8
    entry = stage.entry
    assert (entry["kind"], entry["pool"], entry["concurrency"]) == ("worker", "prefork", 8)


def test_the_lowest_limits_are_said_and_those_of_each_queue_where_they_differ(
    stage: Stage,
) -> None:
    _one = stage.consume(queue("a"), limits={"lease_seconds": 60, "max_deliveries": 3})
    _two = stage.consume(queue("a"), limits={"lease_seconds": 30, "max_deliveries": 5})
    entry = stage.entry
    assert entry["limits"] == {"lease_seconds": 30, "max_deliveries": 3}
    assert "limits_of" not in entry
    _three = stage.consume(queue("b#1.7", "b"), limits={"lease_seconds": 90})
    entry = stage.entry
    assert entry["limits"] == {"lease_seconds": 30, "max_deliveries": 3}
    assert entry["limits_of"] == {
        "a": {"lease_seconds": 30, "max_deliveries": 3},
        "b": {"lease_seconds": 90},
    }


def test_an_entry_names_so_many_queues_and_so_much_work(stage: Stage) -> None:
    works = [Work("q", str(n), n) for n in range(WORK + 1)]
    _one = stage.consume(*(queue(f"{n:03}") for n in range(QUEUES + 1)), holder=Holder(*works))
    entry = stage.entry
    assert (len(entry["queues"]), entry["queue_count"]) == (QUEUES, QUEUES + 1)
    assert (len(entry["working"]), entry["holds"]) == (WORK, WORK + 1)


def test_an_entry_that_is_too_large_names_less(stage: Stage) -> None:
    works = [Work("w", f"{n}", n) for n in range(WORK)]
    queues = [queue(f"{n:03}{'x' * 500}") for n in range(QUEUES)]
    _one = stage.consume(*queues, holder=Holder(*works), limits={"lease_seconds": 1})
    _two = stage.consume(queue("z"), limits={"lease_seconds": 2})
    entry = stage.entry
    assert len(json.dumps(entry)) <= LARGEST
    assert (len(entry["queues"]), len(entry["limits_of"])) == (QUEUES // 2, QUEUES // 2)
    assert len(entry["working"]) == WORK
    stage.register.about["x"] = "x" * 44_000
    stage.register._next = 0.0
    entry = stage.entry
    assert (len(entry["queues"]), len(entry["working"])) == (QUEUES // 8, QUEUES // 8)


@pytest.mark.parametrize(("more", "named"), [(0, 1), (1, 0)])
def test_an_entry_may_be_just_so_large(stage: Stage, more: int, named: int) -> None:
    _one = stage.consume(queue("q"))
    size = len(json.dumps(stage.entry))
    stage.register.about["x"] = "x" * (LARGEST + more - size - len(', "x": ""'))
    stage.register._next = 0.0
    assert len(stage.entry["queues"]) == named


def test_what_cannot_name_less_is_said_as_it_is(stage: Stage) -> None:
    _one = stage.consume(queue("q"))
    stage.register.about["x"] = "x" * (LARGEST + 1)
    entry = stage.entry
    assert (entry["queues"], entry["queue_count"]) == ([], 1)


def test_all_registers_say_their_last_word_at_exit(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_registers", [stage.register])
    one = stage.consume(queue("q"))
    stage.turn()
    module.close_all()
    assert (stage.said[-1].alive_ms, one.listed) == (0, False)
