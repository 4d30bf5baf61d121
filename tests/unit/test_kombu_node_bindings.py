"""The bindings of a cluster, an exchange's in one key at its shard: what is asked and believed."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from atomq.calls import Call
from atomq.contrib.kombu import bindings, node_bindings
from atomq.contrib.kombu.bindings import AGE, LEAST_MS
from atomq.contrib.kombu.node_bindings import NodeBindings
from atomq.errors import InvalidMessage, ServerUnavailable
from atomq.keys import hash_slot

AWAY = ServerUnavailable("away")
BOUND = ("key", None, "q")
MEMBER = "key\x06\x16\x06\x16q"


class Clock:
    """Time that passes as a test, or a pause, has it."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.paused: list[float] = []

    def monotonic(self) -> float:
        return 10_000 + self.passed

    def sleep(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.passed += seconds


class Tables(NodeBindings):
    """The tables of a server that is a list of answers; what a thread is given is done at once."""

    def __init__(self) -> None:
        self.ran: list[Call[Any]] = []
        self.answers: list[Any] = []
        self.jobs: list[tuple[Any, str]] = []
        self.under_way: threading.Event | None = threading.Event()
        self.does = True
        slots = SimpleNamespace(owner=lambda slot: ("node", slot))
        options = SimpleNamespace(sep="\x06\x16", global_keyprefix="")
        engine: Any = SimpleNamespace(options=options, prefix="ns:", slots=slots, run=self.run)
        super().__init__(engine)
        self.engine = engine
        threads: Any = SimpleNamespace(do=self.do)
        self._threads = threads

    def run(self, call: Call[Any]) -> Any:
        self.ran.append(call)
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return call.parse(answer, False)

    def do(self, place: Any, what: str, job: Any) -> threading.Event | None:
        self.jobs.append((place, what))
        if self.does:
            job()
            if self.under_way is not None:
                self.under_way.set()
        return self.under_way

    def asked(self) -> list[list[Any]]:
        """What each call adds, for how long, and what it takes out."""
        return [list(call.args) for call in self.ran]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (bindings, node_bindings):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def tables(clock: Clock) -> Tables:
    return Tables()


def test_a_table_is_read_without_what_is_no_binding(tables: Tables) -> None:
    tables.answers = [[MEMBER.encode(), b"\x06\x16p*\x06\x16r", b"odd", b"a\x06\x16b\x06\x16"]]
    found = [("key", "", "q"), ("", "p*", "r"), ("a", "b", "")]
    assert tables.read("x") == found
    assert [call.keys for call in tables.ran] == [("_atomq.{ns:x}.bindings",)]
    assert tables.asked() == [["", 0, ""]]
    assert tables.table("x") == found
    assert len(tables.ran) == 1, "it is believed for a while"


def test_a_table_is_believed_for_a_while(tables: Tables, clock: Clock) -> None:
    tables.answers = [[MEMBER.encode()], []]
    assert tables.table("x") == [("key", "", "q")]
    clock.passed += AGE
    assert tables.table("x") == []
    assert len(tables.ran) == 2


def test_where_the_shard_is_away_a_table_is_as_it_was(tables: Tables, clock: Clock) -> None:
    tables.answers = [[MEMBER.encode()], AWAY]
    assert tables.read("x") == [("key", "", "q")]
    clock.passed += 60
    assert tables.read("x") == [("key", "", "q")]
    clock.passed += AGE - 0.1
    assert tables.table("x") == [("key", "", "q")]
    assert len(tables.ran) == 2, "it is asked again after a while, not at each message"
    tables.answers = [AWAY]
    with pytest.raises(ServerUnavailable):
        tables.read("another")


def test_a_binding_is_written_by_the_thread_of_its_shard(tables: Tables) -> None:
    tables.bind("x", BOUND)
    assert tables.asked() == [[MEMBER, 0, ""]]
    assert tables.ran[0].brief, "the thread tries again, and not the engine"
    place = ("node", hash_slot("_atomq.{ns:x}.bindings"))
    assert tables.jobs == [(place, f"bind x {MEMBER} True")]


def test_a_binding_of_a_queue_that_expires_lives_longer_than_the_queue(tables: Tables) -> None:
    tables.bind("x", BOUND, 60_000)
    tables.bind("x", BOUND, LEAST_MS)
    assert [lives_ms for _, lives_ms, _ in tables.asked()] == [LEAST_MS, 2 * LEAST_MS]
    assert {what for _, what in tables.jobs} == {f"bind x {MEMBER} False"}


def test_before_the_map_of_slots_is_known_a_thread_of_no_node_binds(tables: Tables) -> None:
    tables.engine.slots = None
    tables.bind("x", BOUND)
    assert tables.jobs[0][0] is None
    assert len(tables.ran) == 1


def test_what_was_bound_is_read_anew(tables: Tables) -> None:
    assert tables.table("x") == []
    tables.bind("x", BOUND)
    tables.answers = [[MEMBER.encode()]]
    assert tables.table("x") == [("key", "", "q")]
    tables.bind("never read", BOUND)


def test_a_declaration_does_not_wait_long_for_a_shard(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "atomq.kombu")
    tables.does, tables.under_way = False, threading.Event()
    soon = threading.Timer(0.01, tables.under_way.set)
    soon.start()
    tables.bind("x", BOUND)
    soon.join()
    assert caplog.messages == [], "it was waited for"
    monkeypatch.setattr(node_bindings, "PATIENCE", 0.01)
    tables.under_way = threading.Event()
    tables.bind("x", BOUND)
    assert caplog.messages == ["the exchange 'x' is bound later: its shard does not answer"]
    tables.under_way = None  # the same is under way
    tables.bind("x", BOUND)
    assert len(caplog.messages) == 1


def test_a_binding_is_tried_until_its_shard_is_back(tables: Tables, clock: Clock) -> None:
    tables.answers = [AWAY, AWAY, []]
    tables.bind("x", BOUND)
    assert tables.asked() == [[MEMBER, 0, ""]] * 3
    assert clock.paused == [AGE, AGE]


def test_a_binding_is_given_up_in_the_end(tables: Tables, clock: Clock) -> None:
    tables.answers = [AWAY] * 10_000
    tables.bind("x", BOUND)
    assert clock.passed == LEAST_MS / 1000
    assert len(tables.ran) == LEAST_MS / 1000 / AGE


def test_a_binding_that_is_refused_is_said_and_not_tried_again(tables: Tables) -> None:
    refused = InvalidMessage("no")
    tables.answers = [refused]
    with pytest.raises(InvalidMessage) as raised:
        tables.bind("x", BOUND)
    assert raised.value is refused
    assert len(tables.ran) == 1


def test_a_binding_that_is_taken_away_is_gone_at_once(tables: Tables) -> None:
    tables.answers = [[MEMBER.encode()]]
    assert tables.table("x") == [("key", "", "q")]
    tables.unbind("x", BOUND)
    assert tables.asked()[-1] == ["", 0, MEMBER]
    assert tables.table("x") == []
    tables.unbind("never read", BOUND)


def test_tables_are_swept_by_each_call(tables: Tables) -> None:
    tables.bind("x", BOUND)
    assert tables.sweep() == 0
    assert len(tables.ran) == 1
