"""The socket of a connection of Kombu's, and what waits to be handed over. Needs no server."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq.contrib.kombu import line
from atomq.contrib.kombu.hand_over import HandOver
from atomq.contrib.kombu.line import Line, Socket
from atomq.delivery import Delivery
from atomq.errors import ServerUnavailable


class Wire:
    """It gives these pieces, and counts how often it is asked whether there is one."""

    def __init__(self, *pieces: bytes, number: int = 3) -> None:
        self.pieces = list(pieces)
        self.number = number
        self.read_before: list[Any] = []
        self.looks: list[float] = []
        self.closed = False
        self.credential_provider: Any = None

    def fileno(self) -> int:
        return self.number

    def send(self, data: bytes) -> None:
        pass

    def readable(self, seconds: float) -> bool:
        self.looks.append(seconds)
        return bool(self.pieces)

    def receive(self) -> bytes:
        return self.pieces.pop(0)

    def close(self) -> None:
        self.closed = True


# ── answers ───────────────────────────────────────────────────────────────────────────────────


def test_what_was_taken_in_already_is_not_looked_for_on_the_wire() -> None:
    wire: Any = Wire(b":1\r\n:2\r\n")
    talk = Line(wire)
    talk.say(("A",), "a")
    talk.say(("B",), "b")
    assert not talk.has_answer
    assert talk.readable(0.5)
    assert wire.looks == [0.5]
    assert talk.answer() == ("a", 1)
    assert talk.readable(0.5)
    assert wire.looks == [0.5]
    assert talk.answer() == ("b", 2)
    assert not talk.readable(0.1)
    assert wire.looks == [0.5, 0.1]


def test_nonsense_is_an_answer_that_is_raised() -> None:
    wire: Any = Wire(b"!nonsense\r\n")
    talk = Line(wire)
    talk.say(("A",), "a")
    talk.hear()
    assert talk.readable(0.5)
    with pytest.raises(server.InvalidResponse):
        talk.answer()


# ── the socket ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each connection that it makes is a wire of another number."""
    found = SimpleNamespace(moves=4, era=7, wires=[])

    def connection() -> Wire:
        found.wires.append(Wire(number=10 + len(found.wires)))
        wire: Wire = found.wires[-1]
        return wire

    found.connection = connection
    monkeypatch.setattr(line.wires, "taken", lambda wire: wire)
    return found


def test_a_line_is_made_once_and_watched_until_it_is_hung_up(engine: Any) -> None:
    socket, numbers = Socket(engine), []
    socket.watch(numbers.append)
    assert numbers == [], "there is none yet"
    assert socket.connected() is socket.connected()
    again: list[int | None] = []
    socket.watch(again.append)
    socket.hang_up()
    socket.hang_up()
    socket.connected()
    assert (numbers, again) == ([10], [10, None, 11])
    assert [wire.closed for wire in engine.wires] == [True, False]


def test_how_long_a_line_has_lasted(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    socket = Socket(engine)
    socket.connected()
    now[0] += 3
    assert socket.lasted() == 3


def test_before_a_line_is_there_nothing_is_outdated(engine: Any) -> None:
    socket = Socket(engine)
    assert (socket.is_outdated, socket.has_moved) == (False, False)
    assert socket.new_credentials() == ()


def test_another_master_or_other_credentials_outdate_a_line(engine: Any) -> None:
    socket = Socket(engine)
    socket.connected()
    assert (socket.is_outdated, socket.has_moved) == (False, False)
    engine.era += 1
    assert (socket.is_outdated, socket.has_moved) == (True, False)
    socket.hang_up()
    socket.connected()
    assert (socket.is_outdated, socket.has_moved) == (False, False)
    engine.moves += 1
    assert (socket.is_outdated, socket.has_moved) == (True, True)


def test_new_credentials_are_said_once_and_the_line_is_as_good_as_new(engine: Any) -> None:
    socket = Socket(engine)
    wire: Any = socket.connected().wire
    wire.credential_provider = SimpleNamespace(get_credentials=lambda: ["user", "token"])
    assert socket.new_credentials() == (), "they are those that it was made with"
    engine.era += 1
    assert socket.new_credentials() == ("user", "token")
    assert not socket.is_outdated
    assert socket.new_credentials() == ()
    engine.era += 1
    wire.credential_provider = None
    assert socket.new_credentials() == ()
    assert not socket.is_outdated


# ── what waits to be handed over ──────────────────────────────────────────────────────────────


class Broker:
    """It notes what is given back."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[str]]] = []
        self.lapsed: set[str] = set()
        self.keeper = SimpleNamespace(lapsed=self.lapsed.__contains__)
        self.away = False

    def keys(self, queue: str) -> str:
        return queue

    def give_back(self, queue: str, receipts: list[str]) -> None:
        if self.away:
            raise ServerUnavailable("gone")
        self.given.append((queue, receipts))


def deliveries(*receipts: str, queue: str = "q") -> list[Delivery]:
    return [Delivery(queue, receipt, 1, 1, b"{}") for receipt in receipts]


def test_how_many_wait_for_a_channel() -> None:
    broker: Any = Broker()
    one: Any = object()
    other: Any = object()
    buffer = HandOver(broker)
    buffer.add(one, deliveries("a", "b"), 1)
    buffer.add(other, deliveries("c"), 1)
    assert (buffer.count(one), buffer.count(other), len(buffer)) == (2, 1, 3)


def test_what_lapsed_is_given_back_as_settled_and_what_is_known_goes_on() -> None:
    broker: Any = Broker()
    buffer, channel = HandOver(broker), Any
    messages = [*deliveries("a", "b"), *deliveries("c", queue="r"), *deliveries("d")]
    buffer.add(channel, messages, 1)  # type: ignore[arg-type]
    assert buffer.next() == (channel, messages[0], 1)
    broker.lapsed |= {"b", "c"}
    assert buffer.next() is None
    assert broker.given == [("q", ["b"]), ("r", ["c"])]
    assert [message.settled for message in messages] == [False, True, True, False]
    assert buffer.next() == (channel, messages[3], 1)
    assert buffer.next() is None


def test_all_is_given_back_or_what_is_said() -> None:
    broker: Any = Broker()
    buffer, channel = HandOver(broker), Any
    buffer.add(channel, deliveries("a", "b", "c"), 1)  # type: ignore[arg-type]
    buffer.give_back(lambda _, delivery: delivery.receipt == "b")
    assert broker.given == [("q", ["b"])]
    buffer.give_back()
    buffer.give_back()
    assert broker.given == [("q", ["b"]), ("q", ["a", "c"])]


def test_a_thread_that_lets_all_go_waits_for_what_is_given_back_just_then() -> None:
    """A worker that stops cancels its consumers, and has a thread give back what waits."""
    broker: Any = Broker()
    buffer, channel = HandOver(broker), Any
    buffer.add(channel, deliveries("a", "b", "c"), 1)  # type: ignore[arg-type]
    thread = threading.Thread(target=buffer.let_go)
    asked: list[str] = []

    def which(_: Any, delivery: Delivery) -> bool:
        asked.append(delivery.receipt)
        if len(asked) == 1:
            thread.start()
            thread.join(0.02)
        return delivery.receipt == "b"

    buffer.give_back(which)
    thread.join()
    assert asked == ["a", "b", "c"], "each once: it may be asked of a lease, which ends meanwhile"
    assert sorted(broker.given) == [("q", ["a", "c"]), ("q", ["b"])]
    assert len(buffer) == 0


@pytest.mark.parametrize("away", [True, False])
def test_one_that_stops_gives_back_what_waits_as_far_as_another_thread_leaves_it(
    away: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker: Any = Broker()
    broker.away = away
    buffer, channel = HandOver(broker), Any
    buffer.add(channel, deliveries("a", "b"), 1)  # type: ignore[arg-type]
    left = iter([buffer.waiting.popleft()])

    class Taken:
        """Its own thread takes the last one in between."""

        def popleft(self) -> Any:
            try:
                return next(left)
            except StopIteration:
                raise IndexError from None

        def __bool__(self) -> bool:
            self.looks = getattr(self, "looks", 0) + 1
            assert self.looks < 3, "what is empty is not asked again"
            return True

    buffer.waiting = Taken()  # type: ignore[assignment]
    buffer.let_go()
    assert broker.given == ([] if away else [("q", ["a"])])
    assert ("not given back before the lease ends: gone" in caplog.text) == away
