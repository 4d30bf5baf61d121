"""The lines of one connection of Kombu's to the nodes of a cluster, over socket pairs."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import fork, wires
from atomq.contrib.kombu.nodes import PAUSE, Lines, NodeLine
from atomq.conversation import packed

A, B = ("a", 1), ("b", 2)
AWAY = server.ConnectionError("away")


class Wire:
    """One half of a socket pair; the other is `far`."""

    def __init__(self, place: Any) -> None:
        self.near, self.far = socket.socketpair()
        self.far.settimeout(1.0)
        self.near.settimeout(1.0)  # a read that waits is a fault
        self.node = place
        self.read_before: list[bytes] = []
        self.fails: Exception | None = None
        self.closed = False

    def fileno(self) -> int:
        return self.near.fileno()

    def send(self, data: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        self.near.sendall(data)

    def receive(self) -> bytes:
        if data := self.near.recv(4096):
            return data
        raise AWAY

    def close(self) -> None:
        self.closed = True
        self.near.close()


class Rig:
    """Lines whose threads do what they are given when a test says so."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.fails: list[Exception] = []
        self.jobs: list[tuple[Any, Callable[[], None]]] = []
        self.lost: list[tuple[NodeLine, Exception]] = []
        engine: Any = SimpleNamespace(connection=self.connection)
        self.lines = Lines(engine, self.broken)
        threads: Any = SimpleNamespace(do=lambda place, _, job: self.jobs.append((place, job)))
        self.lines.threads = threads

    def broken(self, line: NodeLine, error: Exception) -> None:
        assert line.is_open, "it is as it was when it broke"
        self.lost.append((line, error))

    def connection(self, place: Any) -> Wire:
        if self.fails:
            raise self.fails.pop()
        self.wires.append(Wire(place))
        return self.wires[-1]

    def work(self) -> None:
        jobs, self.jobs = self.jobs, []
        for _, job in jobs:
            job()
        self.lines.hear()

    def open(self, line: NodeLine) -> Wire:
        line.open(time.monotonic())
        self.work()
        return self.wires[-1]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(wires, "taken", lambda wire: wire)
    rig = Rig()
    yield rig
    rig.lines.close()
    for wire in rig.wires:
        wire.near.close()
        wire.far.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


# ── one line ──────────────────────────────────────────────────────────────────────────────────


def test_a_thread_of_its_node_opens_it_once(rig: Rig) -> None:
    line, opened = rig.lines.to(A), []
    line.on_open = lambda: opened.append(line.is_open)
    line.open(0.0)
    line.open(0.0)
    rig.lines.ear.open(0.0)
    assert [place for place, _ in rig.jobs] == [A, ("", 0)]
    assert not line.is_open
    assert not rig.lines.readable(0)
    rig.jobs.pop()
    rig.jobs[0][1]()
    assert rig.lines.readable(0)
    assert not line.is_open, "the thread that the lines belong to takes it"
    rig.lines.hear()
    assert (line.is_open, opened) == (True, [True])
    line.open(9.0)
    assert len(rig.jobs) == 1
    line.hang_up()
    line.open(time.monotonic())
    assert len(rig.jobs) == 2


def test_one_that_could_not_be_opened_is_tried_again_after_a_while_that_grows(
    rig: Rig, now: list[float]
) -> None:
    line = rig.lines.to(A)
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        rig.fails = [AWAY]
        line.open(now[0])
        rig.work()
        line.open(now[0] + pause - 0.01)
        assert rig.jobs == []
        now[0] += pause
    rig.open(line)
    assert line.is_open
    line.hang_up()
    rig.fails = [AWAY]
    line.open(now[0])
    rig.work()
    line.open(now[0] + PAUSE[0])
    assert len(rig.jobs) == 1, "it begins with the least again"


def test_one_that_opens_after_the_end_is_closed(rig: Rig) -> None:
    line = rig.lines.to(A)
    line.open(0.0)
    rig.jobs[0][1]()
    rig.lines.is_closed = True
    rig.lines.hear()
    assert (line.is_open, rig.wires[0].closed) == (False, True)
    rig.lines.is_closed = False


def test_one_that_breaks_as_it_opens_is_lost(rig: Rig) -> None:
    line = rig.lines.to(A)

    def fails() -> None:
        raise AWAY

    line.on_open = fails
    rig.open(line)
    assert (line.is_open, rig.lost) == (False, [(line, AWAY)])


def test_what_is_said_goes_out_together_and_each_answer_has_its_purpose(rig: Rig) -> None:
    line = rig.lines.to(A)
    line.say((("A",), "not open"))
    line.subscribe("SUBSCRIBE", ["c"], print)
    wire = rig.open(line)
    line.say((("A",), "a"), (("B",), "b"))
    assert wire.far.recv(99) == packed(("A",)) + packed(("B",))
    assert (rig.lines.has_answer, list(rig.lines.answers())) == (False, [])
    wire.far.send(b":1\r\n:2\r\n")
    assert rig.lines.readable(1.0)
    rig.lines.hear()
    assert rig.lines.has_answer
    assert rig.lines.readable(0)
    assert list(rig.lines.answers()) == [(line, "a", 1)]
    assert list(rig.lines.answers()) == [(line, "b", 2)]
    assert not rig.lines.has_answer


def test_one_that_listens_is_asked_too(rig: Rig) -> None:
    line = rig.lines.ear
    wire = rig.open(line)
    line.subscribe("SUBSCRIBE", ["c"], print)
    assert wire.far.recv(99) == packed(("SUBSCRIBE", "c"))
    assert line.is_asked


@pytest.mark.parametrize("how", ["say", "subscribe"])
def test_it_is_silent_from_the_first_that_is_not_answered(
    rig: Rig, now: list[float], how: str
) -> None:
    def ask() -> None:
        if how == "say":
            line.say((("A",), "a"))
        else:
            line.subscribe("SUBSCRIBE", ["c"], print)

    line = rig.lines.to(A)
    assert (line.is_asked, line.silent(200.0)) == (False, 0.0)
    wire = rig.open(line)
    now[0] = 103.0
    assert (line.is_asked, line.silent(now[0])) == (False, 0.0)
    ask()
    now[0] = 104.0
    ask()
    assert (line.is_asked, line.silent(now[0])) == (True, 1.0)
    wire.far.send(b":")
    now[0] = 105.0
    rig.lines.hear()
    assert line.silent(106.0) == 1.0


def test_it_is_called_by_its_node(rig: Rig) -> None:
    assert (rig.lines.to(A).name, rig.lines.ear.name) == ("a:1", "any node")
    rig.open(rig.lines.ear).node = B
    assert rig.lines.ear.name == "b:2"


@pytest.mark.parametrize("how", ["say", "subscribe"])
def test_one_that_cannot_be_written_to_is_lost_and_rests(
    rig: Rig, now: list[float], how: str
) -> None:
    line = rig.lines.to(A)
    wire = rig.open(line)
    wire.fails = AWAY
    if how == "say":
        line.say((("A",), "a"))
    else:
        line.subscribe("SUBSCRIBE", ["c"], print)
    assert (line.is_open, wire.closed, rig.lost) == (False, True, [(line, AWAY)])
    line.open(now[0] + PAUSE[0] - 0.01)
    assert rig.jobs == []
    line.open(now[0] + PAUSE[0])
    assert len(rig.jobs) == 1


def test_one_that_is_closed_by_its_node_is_lost_once(rig: Rig) -> None:
    line = rig.lines.to(A)
    rig.open(line).far.close()
    rig.lines.hear()
    assert rig.lost == [(line, AWAY)]
    rig.lines.broken(line, AWAY)
    assert rig.lost == [(line, AWAY)]


def test_one_that_has_no_answer_keeps_no_other_waiting(rig: Rig) -> None:
    rig.lines.to(("c", 3))
    one, other = rig.lines.to(A), rig.lines.to(B)
    rig.open(one)
    wire = rig.open(other)
    other.say((("B",), "b"))
    wire.far.send(b":2\r\n")
    rig.lines.hear()
    assert list(rig.lines.answers()) == [(other, "b", 2)]
    assert rig.lost == []


def test_one_that_talks_nonsense_is_lost_and_the_others_are_heard(rig: Rig) -> None:
    one, other = rig.lines.to(A), rig.lines.to(B)
    first, second = rig.open(one), rig.open(other)
    one.say((("A",), "a"))
    other.say((("B",), "b"))
    first.far.send(b"nonsense\r\n")
    second.far.send(b":2\r\n")
    rig.lines.hear()
    assert list(rig.lines.answers()) == [(other, "b", 2)]
    assert [line for line, _ in rig.lost] == [one]


# ── all of them ───────────────────────────────────────────────────────────────────────────────


def test_there_is_one_a_node_until_it_is_dropped(rig: Rig) -> None:
    one = rig.lines.to(A)
    assert rig.lines.to(A) is one
    assert rig.lines.every() == [one, rig.lines.ear]
    wire = rig.open(one)
    rig.lines.drop(one)
    assert (one.is_open, wire.closed, rig.lines.every()) == (False, True, [rig.lines.ear])
    assert rig.lost == []
    rig.open(rig.lines.ear)
    rig.lines.drop(rig.lines.ear)
    assert not rig.lines.ear.is_open


def test_what_is_posted_makes_the_file_readable_and_rings_once(rig: Rig) -> None:
    did: list[int] = []
    rig.lines.post(lambda: did.append(1))
    rig.lines.post(lambda: did.append(2))
    assert rig.lines.fileno() >= 0
    assert not rig.lines._bell.getblocking()
    assert [key.data for key, _ in rig.lines._selector.select(0)] == [None]
    assert rig.lines._bell.recv(9) == b"\0"
    rig.lines._rope.send(b"\0")
    assert rig.lines.readable(0)
    rig.lines.hear()
    assert did == [1, 2]
    assert rig.lines._selector.select(0) == []
    rig.lines.post(lambda: did.append(3))
    assert len(rig.lines._selector.select(0)) == 1, "it rings again"
    rig.lines.catch_up()
    assert did == [1, 2, 3]


def test_hearing_waits_for_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(rig.lines._selector, "select", lambda s: waited.append(s) or [])
    rig.lines.hear()
    assert waited == [0]
    monkeypatch.setattr(rig.lines, "_selector", selectors.SelectSelector())
    assert rig.lines.fileno() == -1, "there is no one file to watch"


def test_closing_hangs_up_and_does_nothing_that_was_posted(rig: Rig) -> None:
    wire = rig.open(rig.lines.to(A))
    rig.lines.post(pytest.fail)
    rig.lines.close()
    rig.lines.close()
    rig.lines.catch_up()
    assert (wire.closed, rig.lines.is_closed) == (True, True)
    assert (rig.lines._bell.fileno(), rig.lines._rope.fileno()) == (-1, -1)
    rig.lines.post(lambda: None)


def test_in_a_child_process_all_of_it_is_the_parent_s(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    line = rig.lines.to(A)
    rig.open(line)
    theirs = line.line
    rig.lines.post(pytest.fail)
    monkeypatch.setattr(fork, "leak", lambda *things: kept.append(things))
    rig.lines.forked()
    selector, bell, rope = rig.lines._selector, rig.lines._bell, rig.lines._rope
    assert kept == [(selector, bell, rope, [theirs, None])]
    assert (rig.lines.is_closed, line.is_open) == (True, False)
    rig.lines.catch_up()
    for each in (selector, bell, rope):
        each.close()
