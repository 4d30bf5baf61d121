"""Puts of several threads: which go together, and whose answer and error is whose."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from atomq import gathering_threads
from atomq.calls import MOST, Outgoing, Published
from atomq.errors import ServerFull
from atomq.gathering import TOGETHER
from atomq.gathering_threads import COST, ThreadGathering, _Put
from tests.servers import wait_until


class Said:
    """A call, as far as a gathering knows it."""

    def __init__(self, names: Sequence[str], attempt: int = 0) -> None:
        self.names, self.attempt = "".join(names), attempt

    def again(self) -> Said:
        return Said(self.names, self.attempt + 1)


class Server:
    """What takes the calls of threads, each answered when it is told so."""

    def __init__(self, trip: float | None = 0.0) -> None:
        self.calls: list[Said] = []
        self.answers: list[Future[None]] = []
        self.gathering = ThreadGathering(self._made, self._run)
        if trip is not None:
            self.gathering._took(trip)

    @staticmethod
    def _made(messages: Sequence[Outgoing]) -> Any:
        return Said([message.id for message in messages])

    def _run(self, call: Any) -> Published:
        answer = Future[None]()
        self.answers.append(answer)
        self.calls.append(call)
        answer.result(5)
        return Published(len(call.names))

    @property
    def said(self) -> list[str]:
        return [call.names for call in self.calls]

    def put(self, name: str, size: int = 10, **more: Any) -> Future[bool]:
        """By a thread of its own, which waits for its call or an answer when this returns."""
        done, before = Future[bool](), self._waiting()

        def work() -> None:
            try:
                done.set_result(self.gathering.put(Outgoing("x" * size, name, **more)))
            except BaseException as error:  # noqa: BLE001 - raised by `result`
                done.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        wait_until(f"{name} waits", lambda: self._waiting() > before, 5)
        return done

    def _waiting(self) -> int:
        return len(self.gathering._waiting) + len(self.calls)

    def until_said(self, *expected: str) -> None:
        wait_until(f"the calls are {expected}", lambda: self.said == list(expected), 5)

    def answer(self, *calls: int) -> None:
        for call in calls:
            self.answers[call].set_result(None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(gathering_threads, "PATIENCE", 20.0)
    return Server()


def test_two_go_alone_and_what_comes_beside_them_is_one_call(server: Server) -> None:
    puts = [server.put(name) for name in "abcde"]
    assert server.said == ["a", "b"]
    server.answer(0)
    assert puts[0].result(5)
    assert server.said == ["a", "b"]  # half as many calls at a time, while some wait
    server.answer(1)
    server.until_said("a", "b", "cde")
    assert not any(put.done() for put in puts[2:])
    puts.append(server.put("f"))
    assert server.said == ["a", "b", "cde", "f"]  # nothing waits any more
    server.answer(2, 3)
    assert all(put.result(5) for put in puts)
    assert not server.gathering._under_way


def test_to_a_server_that_is_far_away_each_goes_alone() -> None:
    server = Server(trip=10 * COST)
    puts = [server.put(name) for name in "abcdefghij"]
    assert server.said == list("abcdefghij")
    server.answer(*range(10))
    assert all(put.result(5) for put in puts)


def test_how_far_it_is_the_fastest_call_of_late_says(server: Server) -> None:
    gathering = server.gathering
    for seconds, most in ((1.0, 2), (20 * COST, 2), (0.0, 2)):
        gathering._took(seconds)
        assert gathering._most == most
    gathering._trip = 10 * COST
    for _ in range(100):
        gathering._took(1.0)
    assert 25 < gathering._most < 30  # 1.01 ** 100 is 2.7


def test_calls_that_meet_say_how_far_it_is_and_one_that_is_alone_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(gathering_threads, "time", SimpleNamespace(monotonic=lambda: now[0]))
    server = Server(trip=None)
    for names, most in (("a", MOST), ("bc", 20), ("d", 20)):
        at = len(server.calls)
        puts = [server.put(name) for name in names]
        now[0] += 20.5 * COST
        server.answer(*range(at, at + len(names)))
        assert all(put.result(5) for put in puts)
        assert server.gathering._most == most


def test_a_call_of_several_says_how_far_it_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(gathering_threads, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(gathering_threads, "PATIENCE", 20.0)
    server = Server(trip=2.5 * COST)
    puts = [server.put(name) for name in "abcd"]
    now[0] += 9 * COST
    server.answer(0, 1)
    server.until_said("a", "b", "cd")
    now[0] += COST
    server.answer(2)
    assert all(put.result(5) for put in puts)
    assert server.gathering._trip == pytest.approx(COST)


def test_what_is_not_plain_or_large_goes_alone(server: Server) -> None:
    puts = [server.put(name) for name in "abc"]
    puts.append(server.put("d", delay_ms=1))
    puts.append(server.put("e", TOGETHER + 1))
    assert server.said == ["a", "b", "d", "e"]
    server.answer(0, 1, 2, 3)
    server.until_said("a", "b", "d", "e", "c")
    server.answer(4)
    assert all(put.result(5) for put in puts)


def test_a_call_holds_as_much_as_may_share_a_connection(server: Server) -> None:
    puts = [server.put(name) for name in "ab"]
    puts += [server.put(name, TOGETHER // 2) for name in "cdefg"]
    server.answer(0, 1)
    for said in (["cd"], ["cd", "ef"], ["cd", "ef", "g"]):
        server.until_said("a", "b", *said)
        server.answer(1 + len(said))
    assert all(put.result(5) for put in puts)


def test_a_call_holds_no_more_messages_than_the_server_takes(server: Server) -> None:
    gathering, puts = server.gathering, [_Put(Outgoing("x", "m")) for _ in range(MOST + 1)]
    gathering._waiting.extend(puts[1:])
    assert gathering._gathered(puts[0]) == puts[:MOST]
    assert list(gathering._waiting) == puts[MOST:]


def test_each_caller_has_its_own_error_and_the_next_call_is_made(server: Server) -> None:
    puts = [server.put(name) for name in "abcd"]
    server.answer(0, 1)
    server.until_said("a", "b", "cd")
    other = [server.put(name) for name in "ef"]
    server.answers[2].set_exception(ServerFull("full"))
    errors = [put.exception(5) for put in puts[2:]]
    assert [type(error) for error in errors] == [ServerFull, ServerFull]
    assert errors[0] is not errors[1]
    assert server.said == ["a", "b", "cd", "e"]
    server.answer(3)
    server.until_said("a", "b", "cd", "e", "f")
    server.answer(4)
    assert all(put.result(5) for put in other)


def test_a_thread_that_is_interrupted_leaves_the_call_to_another(server: Server) -> None:
    puts = [server.put(name) for name in "abcde"]
    server.answer(0, 1)
    server.until_said("a", "b", "cde")
    server.answers[2].set_exception(KeyboardInterrupt())
    server.until_said("a", "b", "cde", "cde")
    assert [call.attempt for call in server.calls] == [0, 0, 0, 1]  # it may have been carried out
    assert isinstance(puts[2].exception(5), KeyboardInterrupt)
    server.answers[3].set_exception(SystemExit())
    server.until_said("a", "b", "cde", "cde", "cde")
    server.answer(4)
    assert puts[4].result(5)
    assert isinstance(puts[3].exception(5), SystemExit)
    assert not server.gathering._under_way


def test_one_that_is_interrupted_while_it_wakes_the_others_wakes_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = [server.put(name) for name in "abcde"]
    server.answer(0, 1)
    server.until_said("a", "b", "cde")
    copy, interrupts = gathering_threads.own, [KeyboardInterrupt()]

    def interrupted(error: ServerFull) -> Any:
        if interrupts:
            raise interrupts.pop()
        return copy(error)

    monkeypatch.setattr(gathering_threads, "own", interrupted)
    server.answers[2].set_exception(ServerFull("full"))
    assert isinstance(puts[2].exception(5), KeyboardInterrupt)
    assert [str(put.exception(5)) for put in puts[3:]] == ["full", "full"]
    assert not server.gathering._under_way


@pytest.mark.parametrize("its_turn", [False, True])
def test_one_that_is_interrupted_while_it_waits_is_not_put(
    server: Server, monkeypatch: pytest.MonkeyPatch, its_turn: bool
) -> None:
    puts = [server.put(name) for name in "ab"]

    class Interrupted:
        def acquire(self, **waits: Any) -> None:
            if waits:
                if its_turn:
                    server.answer(0, 1)
                    assert all(put.result(5) for put in puts)
                raise KeyboardInterrupt

        def release(self) -> None:
            return

    monkeypatch.setattr("atomq.gathering_threads.threading.Lock", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.gathering.put(Outgoing("x", "c"))
    monkeypatch.undo()
    if not its_turn:
        server.answer(0, 1)
    assert all(put.result(5) for put in puts)
    assert server.said == ["a", "b"]
    wait_until("its place is free", lambda: not server.gathering._under_way, 5)


def test_a_call_that_takes_too_long_holds_up_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering_threads, "PATIENCE", 0.01)
    stuck = [server.put(name) for name in "ab"]
    third = server.put("c")
    server.until_said("a", "b", "c")
    server.answer(2)
    assert third.result(5)
    server.answer(0, 1)
    assert all(put.result(5) for put in stuck)
    assert not server.gathering._under_way


def test_many_threads_at_random_lose_nothing() -> None:
    put: list[str] = []

    def run(call: Any) -> Published:
        time.sleep(0)
        put.extend(call.names)
        return Published(len(call.names))

    def made(messages: Sequence[Outgoing]) -> Any:
        return Said([message.id for message in messages])

    together = ThreadGathering(made, run)
    together._took(0.0)

    def work(name: str) -> None:
        for _ in range(200):
            assert together.put(Outgoing("x", name))

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(put) == sorted("abcdefgh" * 200)
    assert not together._under_way
    assert not together._waiting
